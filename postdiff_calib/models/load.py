"""Loading a stock diffusers pipeline by card name, local directory or hub id.

Weights are read from safetensors only, and no code from a repository is run. What is in the local cache is used without
asking the network; offline (``HF_HUB_OFFLINE=1``) nothing else is tried. On a CPU everything runs in float32, the only
sensible type there; on a GPU in bfloat16 where it has it, else float16.
"""

from __future__ import annotations

import importlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from postdiff_calib.errors import ModelError, PostdiffError, UnsupportedError, UsageError, reason_of
from postdiff_calib.models.card import Card
from postdiff_calib.models.cards import CARDS, get_card
from postdiff_calib.models.deployment import MODELS_OWN, DeploymentSettings
from postdiff_calib.models.derive import derive_card
from postdiff_calib.models.families import FAMILIES, family_named
from postdiff_calib.models.fingerprint import fingerprint_pipeline
from postdiff_calib.models.listening import complete, quiet
from postdiff_calib.models.lora import merge_loras
from postdiff_calib.models.scheduler import adapt_scheduler
from postdiff_calib.models.single_file import card_of_kind, is_single_file, kind_of, load_single_file

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
        model: a card's name, a local pipeline directory, a checkpoint in one ``.safetensors`` file, or a hub id.
        device: ``auto`` (CUDA, then Apple's, then CPU) or a torch device.
        dtype: ``auto``, ``float32``, ``float16`` or ``bfloat16``.
        settings: of the deployment; they stand on the loaded model's card, and its scheduler is theirs.

    Raises:
        ModelError: no such model, missing weights, no safetensors, or an unusable device or dtype; a size that the
            model does not make.
        UnsupportedError, UsageError: settings that do not fit the model.
    """
    card, source, revision = _resolve(model)
    if settings.revision is not None:
        if os.path.exists(source):
            raise UsageError(f"--revision {settings.revision}", f"{source} is not on the hub", "leave it out")
        revision = settings.revision
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
        known = known or fingerprint_pipeline(loaded.pipe)
        if settings.loras:
            known = merge_loras(loaded.pipe, settings.loras, known)
        return replace(loaded, dtype=kind, fingerprint=known)
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
    if is_single_file(model):
        return None, model, ""
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
            with quiet():
                return _load_once(source, revision, dtype, card, settings, local)
        except PostdiffError:
            raise
        except Exception as error:  # damaged files make diffusers, transformers and safetensors raise a dozen kinds
            failures.append(error)
    raise _missing(model, source, revision, failures[-1], offline=attempts == [True]) from failures[-1]


def _load_once(
    source: str, revision: str, dtype: str, card: Card | None, settings: DeploymentSettings, local: bool
) -> Any:
    import torch
    from diffusers import DiffusionPipeline, UNet2DConditionModel

    if is_single_file(source):
        return _load_file(source, dtype, settings, local)
    options: dict[str, Any] = {"local_files_only": local}
    if settings.variant is not None:
        options["variant"] = settings.variant
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
    if settings.vae is not None:
        options["vae"] = _load_vae(settings.vae, dtype, local)
    with complete():
        return DiffusionPipeline.from_pretrained(source, **options)


def _load_file(path: str, dtype: str, settings: DeploymentSettings, local: bool) -> Any:
    """The pipeline of a checkpoint in one file; what does not fit is refused before its weights are read."""
    import torch

    kind = kind_of(path)
    settings.card(card_of_kind(kind))
    options: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if settings.vae is not None:
        options["vae"] = _load_vae(settings.vae, dtype, local)
    with complete():
        return load_single_file(path, kind, options)


def _load_vae(source: str, dtype: str, local: bool) -> Any:
    """Another autoencoder, of the class that its configuration names.

    Raises:
        ModelError: it cannot be loaded.
    """
    import diffusers
    import torch

    try:
        config = diffusers.AutoencoderKL.load_config(source, local_files_only=local)
        kind = getattr(diffusers, str(config["_class_name"]))
        return kind.from_pretrained(source, dtype=getattr(torch, dtype), use_safetensors=True, local_files_only=local)
    except Exception as error:  # damaged files make diffusers raise a dozen kinds
        raise ModelError(f"--vae {source}", f"it does not load ({reason_of(error)})", "give an autoencoder") from error


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


def _missing(model: str, source: str, revision: str, error: Exception, *, offline: bool) -> ModelError:
    first = re.sub(r"\s+", " ", str(error)).strip()
    if is_single_file(model):
        shown = first if len(first) <= 160 else first[:159] + "…"
        return ModelError(f"model {model!r}", f"its weights do not fit the model ({shown})", "give another checkpoint")
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
