"""Loading a stock diffusers pipeline by card name, local directory or hub id.

Weights are read from safetensors only, and no code from a repository is run. What is in the local cache is used without
asking the network; offline (``HF_HUB_OFFLINE=1``) nothing else is tried. On a CPU everything runs in float32, the only
sensible type there; on a GPU in bfloat16 where it has it, else float16.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from postdiff_calib.errors import ModelError, PostdiffError, UnsupportedError, reason_of
from postdiff_calib.models.card import Card
from postdiff_calib.models.cards import CARDS, get_card
from postdiff_calib.models.deployment import MODELS_OWN, DeploymentSettings
from postdiff_calib.models.derive import derive_card
from postdiff_calib.models.families import FAMILIES, family_named
from postdiff_calib.models.fingerprint import fingerprint_pipeline
from postdiff_calib.models.scheduler import adapt_scheduler

_OWN_MODULES = ("postdiff_calib.models.shapes.autoencoder", "postdiff_calib.models.shapes.absent_text")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_DTYPES = ("auto", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class LoadedModel:
    """A pipeline and where it came from.

    Attributes:
        pipe: the stock diffusers pipeline, on its device.
        card: its card; for a model without one, derived from the pipeline.
        source: hub id or directory it was loaded from.
        revision: the revision asked of the hub; empty for a directory.
        notes: what was changed while loading, one sentence each.
        fingerprint: hash of class, network configurations and weights; the same in whichever type they are loaded.
        device, dtype: where and in which type it runs, e.g. ``cpu`` and ``float32``.
    """

    pipe: Any
    card: Card
    source: str
    revision: str
    notes: tuple[str, ...]
    fingerprint: str
    device: str
    dtype: str


def load_pipeline(
    model: str, *, device: str = "auto", dtype: str = "auto", settings: DeploymentSettings = MODELS_OWN
) -> LoadedModel:
    """Load a pipeline, ready to run.

    Args:
        model: a card's name, a local pipeline directory, or a hub id (owner/name).
        device: ``auto`` (CUDA, then Apple's, then CPU) or a torch device.
        dtype: ``auto``, ``float32``, ``float16`` or ``bfloat16``.
        settings: of the deployment; they stand on the loaded model's card, and its scheduler is theirs.

    Raises:
        ModelError: no such model, missing weights, no safetensors, or an unusable device or dtype; a size that the
            model does not make.
        UnsupportedError, UsageError: settings that do not fit the model.
    """
    card, source, revision = _resolve(model)
    where = _pick_device(device)
    kind = _pick_dtype(dtype, where)
    if card is not None:
        card.require()
        settings.card(card)

    def read(dtype: str) -> Any:
        return _from_pretrained(model, source, revision, dtype, card, settings)

    try:
        # float16 rounds the weights otherwise than bfloat16, by which a model is known whatever type it runs in.
        known = fingerprint_pipeline(read("bfloat16")) if kind == "float16" else None
        loaded = _finish(read(kind), card, source, revision, where, settings)
        return replace(loaded, dtype=kind, fingerprint=known or fingerprint_pipeline(loaded.pipe))
    except PostdiffError:
        raise
    except Exception as error:  # the classes of a pipeline raise what they like on configurations that do not fit
        raise _missing(model, source, revision, error, offline=True) from error


def _finish(
    pipe: Any, card: Card | None, source: str, revision: str, device: str, settings: DeploymentSettings
) -> LoadedModel:
    """A loaded pipeline on its device, with the scheduler that is wanted and its card; neither type nor fingerprint."""
    notes = adapt_scheduler(pipe, card, settings.scheduler, dict(settings.scheduler_config))
    pipe.set_progress_bar_config(disable=True)
    pipe.to(device)
    card = card or derive_card(pipe, source)
    card = card if settings == MODELS_OWN else settings.card(card)
    return LoadedModel(pipe, card, source, revision, notes, "", device, "")


def card_of(model: str) -> Card | None:
    """The card of a model as it is given to ``load_pipeline``; None where it has none.

    Raises:
        ModelError: there is no such model.
    """
    return _resolve(model)[0]


def pick_device(device: str) -> str:
    """A torch device that can be used; ``auto`` is CUDA, then Apple's, then the CPU.

    Raises:
        ModelError: torch cannot use it.
    """
    return _pick_device(device)


def _resolve(model: str) -> tuple[Card | None, str, str]:
    """(card if there is one, directory or hub id, revision)."""
    for card in CARDS:  # a folder of a card's name is meant by ./NAME
        if model == card.name:
            return card, card.hub_id, "" if card.embedded else card.revision
    if model and os.path.isdir(model):
        folder = Path(model).resolve()
        own = [card for card in CARDS if card.embedded and folder == Path(card.hub_id).resolve()]
        return own[0] if own else None, str(Path(model)), ""
    for card in CARDS:
        if model == card.hub_id and card.unet_hub_id is None:
            return card, card.hub_id, card.revision
    if _HUB_ID.fullmatch(model) and not model.startswith("."):
        return None, model, "main"
    get_card(model)  # raises, listing the cards
    raise AssertionError("unreachable")


def _pick_device(device: str) -> str:
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).cpu()  # "meta" makes tensors, but holds no numbers
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        first = reason_of(error)
        raise ModelError(f"device {device!r}", f"torch cannot use it ({first})", "take auto, cpu or cuda") from error
    return device


def _pick_dtype(dtype: str, device: str) -> str:
    import torch

    if dtype not in _DTYPES:
        raise ModelError(f"dtype {dtype!r}", f"it must be one of {', '.join(_DTYPES)}", "take auto")
    if dtype != "auto":
        return dtype
    if device.startswith("cuda"):
        with torch.cuda.device(device):  # torch answers for the current device, and counts emulation unless told not to
            return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "float32"


def _from_pretrained(
    model: str, source: str, revision: str, dtype: str, card: Card | None, settings: DeploymentSettings
) -> Any:
    """The pipeline, from the cache or directory first, then from the hub unless offline."""
    from huggingface_hub import constants

    attempts = [True] if os.path.isdir(source) or constants.HF_HUB_OFFLINE else [True, False]
    failures: list[Exception] = []
    for local in attempts:
        try:
            with _quiet():
                return _load_once(source, revision, dtype, card, settings, local)
        except PostdiffError:
            raise
        except Exception as error:  # damaged files make diffusers, transformers and safetensors raise a dozen kinds
            failures.append(error)
    raise _missing(model, source, revision, failures[-1], offline=attempts == [True]) from failures[-1]


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no remarks of the libraries; what goes wrong still raises.

    diffusers remarks on the embedded autoencoder's class, and warns of an argument that it passes itself.
    """
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    restore: list[Callable[[], None]] = []
    for speaker in (diffusers_logging, hub_logging):
        restore.append(functools.partial(speaker.set_verbosity, speaker.get_verbosity()))
        speaker.set_verbosity_error()
    for library in (diffusers_logging, transformers_logging):
        if library.is_progress_bar_enabled():
            library.disable_progress_bar()
            restore.append(library.enable_progress_bar)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*local_dir_use_symlinks.*")
            yield
    finally:
        for undo in restore:
            undo()


def _load_once(
    source: str, revision: str, dtype: str, card: Card | None, settings: DeploymentSettings, local: bool
) -> Any:
    import torch
    from diffusers import DiffusionPipeline, UNet2DConditionModel

    options: dict[str, Any] = {"local_files_only": local}
    if revision:
        options["revision"] = revision
    index = DiffusionPipeline.load_config(source, **options)
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise ValueError("model_index.json names no pipeline class")
    _refuse_other_class(index["_class_name"])
    if isinstance(entry := index.get("scheduler"), list) and len(entry) == 2:
        settings.check_classes(index["_class_name"], str(entry[1]), card)
    settings.check_size(source)
    named = {entry[0] for entry in index.values() if isinstance(entry, list) and entry}
    for module in named.intersection(_OWN_MODULES):
        # diffusers imports no module just because a file names it; these are ours.
        importlib.import_module(module)
    options |= {"dtype": getattr(torch, dtype), "use_safetensors": True}
    if "safety_checker" in index:
        # It blacks out images at random times and sizes, which would be scored as if the plan had made them.
        options |= {"safety_checker": None, "requires_safety_checker": False}
    if card is not None and (unet := card.unet_hub_id) is not None:
        options["unet"] = UNet2DConditionModel.from_pretrained(
            unet, dtype=options["dtype"], use_safetensors=True, local_files_only=local
        )
    with _complete():
        return DiffusionPipeline.from_pretrained(source, **options)


def _refuse_other_class(name: str) -> None:
    """Refuse a pipeline class of no family, before its weights are read; one that diffusers lacks is for it to refuse.

    Raises:
        UnsupportedError: such a class.
    """
    import diffusers

    found = getattr(diffusers, name, None)
    if isinstance(found, type) and all(family_named(cls.__name__) is None for cls in found.__mro__):
        raise UnsupportedError(
            f"pipeline class {name}",
            f"postdiff runs {', '.join(family.pipeline_class for family in FAMILIES)}",
            "give a text-to-image model of one of these",
        )


@contextmanager
def _complete() -> Iterator[None]:
    """Refuse weights that lack a tensor: transformers fills such a gap with random numbers and only logs it.

    Raises:
        ValueError: names the first tensor that is missing or of another shape.
    """
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.extend(re.sub(r"\x1b\[[0-9;]*m", "", record.getMessage()).splitlines())

    speaker, listener = logging.getLogger("transformers.modeling_utils"), Listener()
    before = speaker.level, speaker.propagate
    speaker.addHandler(listener)
    speaker.setLevel(logging.INFO)  # from WARNING on it also checks plans for several devices, and complains
    speaker.propagate = False
    try:
        yield
    finally:
        speaker.removeHandler(listener)
        speaker.setLevel(before[0])
        speaker.propagate = before[1]
    gaps = [line.split("|")[0].strip() for line in said if re.search(r"\|\s*(MISSING|MISMATCH)", line)]
    if gaps:
        raise ValueError(f"the weights lack {gaps[0]}")


def _missing(model: str, source: str, revision: str, error: Exception, *, offline: bool) -> ModelError:
    first = re.sub(r"\s+", " ", str(error)).strip()
    first = first if len(first) <= 160 else first[:159] + "…"
    if os.path.isdir(source):
        return ModelError(
            f"model {model!r}", f"{source} does not load as a diffusers pipeline in safetensors ({first})",
            "give a directory that save_pretrained wrote",
        )  # fmt: skip
    cache = os.environ.get("HF_HUB_CACHE") or os.path.join(
        os.environ.get("HF_HOME", os.path.expanduser("~/.cache/huggingface")), "hub"
    )
    where = f"{cache} (offline)" if offline else f"{cache} and on huggingface.co"
    return ModelError(
        f"model {model!r}",
        f"{source} at revision {revision} was looked for in {where} and not loaded ({first})",
        f"fetch it with: hf download {source} --revision {revision}",
    )
