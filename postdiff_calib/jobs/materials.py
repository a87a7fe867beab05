"""Prompts and scorers of a calibration: loaded, and refused, before the model's weights are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from postdiff_calib.jobs.given import Given
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.models.card import Card

if TYPE_CHECKING:
    from postdiff_calib.prompts import PromptSet
    from postdiff_calib.quality.scorer import Scorer


@dataclass(frozen=True)
class Materials:
    """What images are made of and scored with.

    Args:
        prompt_set: what is drawn from.
        calibration, held_out: the two disjoint draws.
        scorer: of images against prompts.
        also: scorers that judge beside it.
    """

    prompt_set: PromptSet
    calibration: PromptSet
    held_out: PromptSet
    scorer: Scorer
    also: tuple[Scorer, ...] = ()


def materials_of(job: CalibrateJob, given: Given) -> Materials:
    """Draw the prompts and load the scorers.

    Raises:
        PromptError: the set cannot be read, or holds too few prompts.
        ModelError: there is no such model, device or scorer.
    """
    from postdiff_calib.models.load import card_of, pick_device
    from postdiff_calib.prompts import Columns, draw, load_prompt_set

    # A model without a card has the usual set and scorer.
    card: Card | type[Card] = (given.loaded.card if given.loaded is not None else card_of(job.model)) or Card
    device = given.loaded.device if given.loaded is not None else pick_device(job.device)
    prompt_set = given.prompts or load_prompt_set(job.prompts or card.prompt_set, Columns(job.column, job.category))
    calibration, held_out = draw(prompt_set, job.num_prompts or card.num_prompts, job.seed)
    scorer = given.scorer or scorer_of(job.scorer, card.scorer, device)
    also = given.also if given.also is not None else scorers_of(job.also, device)
    return Materials(prompt_set, calibration, held_out, scorer, also)


def scorer_of(text: str | None, own: str, device: str) -> Scorer:
    """The scorer that images are searched on, loaded.

    Args:
        text: as written; None takes the model's own.
        own: the model's, by open_clip.
        device: where it runs.

    Raises:
        ModelError, UsageError: it cannot be loaded.
    """
    from postdiff_calib.quality.scorers import load_scorer, parse_scorer

    return load_scorer(parse_scorer(own if text is None else text), device)


def scorers_of(texts: Sequence[str], device: str) -> tuple[Scorer, ...]:
    """The scorers that judge beside it, loaded.

    Raises:
        ModelError, UsageError: one cannot be loaded; those that were started are ended.
    """
    from postdiff_calib.quality.scorers import close_scorers, load_scorer, parse_scorer

    loaded: list[Scorer] = []
    try:
        for text in texts:
            loaded.append(load_scorer(parse_scorer(text, "--also"), device))
    except BaseException:
        close_scorers(loaded)
        raise
    return tuple(loaded)
