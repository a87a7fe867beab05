"""Where a model is: a card's, a folder, a file or a repository on the hub, there at a commit."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from postdiff_calib.errors import UsageError
from postdiff_calib.models.card import Card
from postdiff_calib.models.cards import CARDS, get_card, split_model
from postdiff_calib.models.deployment import MODELS_OWN, DeploymentSettings
from postdiff_calib.models.hub import HUB_ID, pinned, require_commit
from postdiff_calib.models.local_files import check_variant
from postdiff_calib.models.single_file import is_single_file


@dataclass(frozen=True)
class Place:
    """Where a model is.

    Attributes:
        card: its card, if it has one.
        source: directory, file or repository on the hub.
        revision: the commit of that; empty where it is not on the hub.
        unet_revision: the commit of the card's ``unet_hub_id``; empty where it has none.
    """

    card: Card | None
    source: str
    revision: str = ""
    unet_revision: str = ""


def place_of(model: str, settings: DeploymentSettings = MODELS_OWN) -> Place:
    """Where a model is, before anything of it is read or fetched.

    Args:
        model: as ``load_pipeline`` takes it.
        settings: may name a commit, in the place of the card's own.

    Raises:
        ModelError: there is no such model, or it is on the hub and no commit of it is known; a variant that it lacks.
        UsageError: what is named is no commit, or two are, or the model is not on the hub; a variant of one file.
    """
    name, commit = split_model(model)
    card, source, revision = _resolve(name)
    if settings.variant is not None:
        check_variant(source, settings.variant)
    unet = card.unet_hub_id if card is not None else None
    given = f"model {model!r}"
    if (card is not None and card.embedded) or os.path.exists(source) or is_single_file(source):
        for what, asked in ((f"--revision {settings.revision}", settings.revision), (given, commit)):
            if asked is not None:
                raise UsageError(what, f"{source} is not on the hub", "leave it out")
        return Place(card, source)
    if settings.revision is not None:
        require_commit(f"--revision {settings.revision}", settings.revision)
    if unet is not None:
        _, found = pinned(given, unet, commit, f"{name}@COMMIT (in a profile model.unet_revision: COMMIT)")
        return Place(card, source, settings.revision or revision, found)
    if commit is not None and settings.revision not in (None, commit):
        raise UsageError(f"{given} with --revision {settings.revision}", "they name two commits", "leave one out")
    _, found = pinned(
        given, source, commit or settings.revision or revision or None, f"{name}@COMMIT or --revision COMMIT"
    )
    return Place(card, source, found)


def card_of(model: str) -> Card | None:
    """The card of a model as it is given to ``load_pipeline``; None where it has none.

    Raises:
        ModelError: there is no such model.
    """
    return _resolve(split_model(model)[0])[0]


def _resolve(model: str) -> tuple[Card | None, str, str]:
    """(card if there is one, directory or hub id, the card's commit) of a model that is given without a commit."""
    for card in CARDS:  # a folder of a card's name is meant by ./NAME
        if model == card.name:
            return card, card.hub_id, card.revision or ""
    if is_single_file(model):
        return None, model, ""
    if model and os.path.isdir(model):
        folder = Path(model).resolve()
        own = [card for card in CARDS if card.embedded and folder == Path(card.hub_id).resolve()]
        return own[0] if own else None, str(Path(model)), ""
    for card in CARDS:
        if model == card.hub_id and card.unet_hub_id is None:
            return card, card.hub_id, card.revision or ""
    if HUB_ID.fullmatch(model) and not model.startswith("."):
        return None, model, ""
    get_card(model)  # raises, listing the cards
    raise AssertionError("unreachable")
