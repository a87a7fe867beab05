"""Loading a stock diffusers pipeline by card name, local directory or hub id.

Weights are read from safetensors only, and no code from a repository is run. What comes from the hub is of a commit:
the card's, or the one that is named (``models.hub``). What is in the local cache is used without asking the network;
offline (``HF_HUB_OFFLINE=1``) nothing else is tried. On a CPU everything runs in float32, the only sensible type there;
on a GPU in bfloat16 where it has it, else float16.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from postdiff_calib.errors import ModelError, PostdiffError, UnsupportedError, reason_of
from postdiff_calib.models.card import Card
from postdiff_calib.models.deployment import MODELS_OWN, DeploymentSettings
from postdiff_calib.models.derive import derive_card
from postdiff_calib.models.families import FAMILIES, family_named
from postdiff_calib.models.fingerprint import fingerprint_pipeline
from postdiff_calib.models.hub import on_hub, pinned
from postdiff_calib.models.listening import complete, quiet
from postdiff_calib.models.local_files import check_latents
from postdiff_calib.models.lora import merge_loras
from postdiff_calib.models.place import Place, place_of
from postdiff_calib.models.scheduler import adapt_scheduler
from postdiff_calib.models.single_file import card_of_kind, is_single_file, kind_of, load_single_file

_OWN_MODULES = ("postdiff_calib.models.shapes.autoencoder", "postdiff_calib.models.shapes.absent_text")
_DTYPES = ("auto", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class LoadedModel:
    """A pipeline and where it came from.

    Attributes:
        pipe: the stock diffusers pipeline, on its device.
        card: its card; for a model without one, derived from the pipeline.
        source: hub id or directory it was loaded from.
        revision: the commit on the hub; empty for a directory.
        notes: what was changed while loading, one sentence each.
        fingerprint: hash of class, network configurations and weights; the same in whichever type they are loaded.
        device, dtype: where and in which type it runs, e.g. ``cpu`` and ``float32``.
        unet_revision: the commit of the U-Net's own repository; empty where the U-Net is of ``source``.
    """

    pipe: Any
    card: Card
    source: str
    revision: str
    notes: tuple[str, ...]
    fingerprint: str
    device: str
    dtype: str
    unet_revision: str = ""


def load_pipeline(
    model: str, *, device: str = "auto", dtype: str = "auto", settings: DeploymentSettings = MODELS_OWN
) -> LoadedModel:
    """Load a pipeline, ready to run.

    Args:
        model: a card's name, a local pipeline directory, a checkpoint in one ``.safetensors`` file, or a hub id; a
            card's name and a hub id with ``@COMMIT`` where the card has none.
        device: ``auto`` (CUDA, then Apple's, then CPU) or a torch device.
        dtype: ``auto``, ``float32``, ``float16`` or ``bfloat16``.
        settings: of the deployment; they stand on the loaded model's card, and its scheduler is theirs.

    Raises:
        ModelError: no such model, missing weights, no safetensors, or an unusable device or dtype; a size that the
            model does not make; a place on the hub without a commit.
        UnsupportedError, UsageError: settings that do not fit the model.
    """
    place = place_of(model, settings)
    card = place.card
    where = _pick_device(device)
    kind = _pick_dtype(dtype, where)
    if card is not None:
        card.require()
        settings.card(card)

    def read(dtype: str) -> Any:
        return _from_pretrained(model, place, dtype, settings)

    try:
        # float16 rounds the weights otherwise than bfloat16, by which a model is known whatever type it runs in.
        known = fingerprint_pipeline(read("bfloat16")) if kind == "float16" else None
        loaded = _finish(read(kind), place, where, settings)
        known = known or fingerprint_pipeline(loaded.pipe)
        if settings.loras:
            known = merge_loras(loaded.pipe, settings.loras, known)
        return replace(loaded, dtype=kind, fingerprint=known)
    except PostdiffError:
        raise
    except Exception as error:  # the classes of a pipeline raise what they like on configurations that do not fit
        raise _missing(model, place, error, offline=True) from error


def _finish(pipe: Any, place: Place, device: str, settings: DeploymentSettings) -> LoadedModel:
    """A loaded pipeline on its device, with the scheduler that is wanted and its card; neither type nor fingerprint."""
    notes = adapt_scheduler(pipe, place.card, settings.scheduler, dict(settings.scheduler_config))
    pipe.set_progress_bar_config(disable=True)
    pipe.to(device)
    card = place.card or derive_card(pipe, place.source)
    card = card if settings == MODELS_OWN else settings.card(card)
    return LoadedModel(pipe, card, place.source, place.revision, notes, "", device, "", place.unet_revision)


def pick_device(device: str) -> str:
    """A torch device that can be used; ``auto`` is CUDA, then Apple's, then the CPU.

    Raises:
        ModelError: torch cannot use it.
    """
    return _pick_device(device)


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


def refuse_other_class(model: str, settings: DeploymentSettings = MODELS_OWN) -> None:
    """Refuse a model whose pipeline class is not supported, by its ``model_index.json`` alone; a card's is.

    Raises:
        ModelError: there is no such file to be read; or as ``place_of``.
        UnsupportedError: the class is none of ``families.FAMILIES``.
    """
    place = place_of(model, settings)
    if place.card is None and not is_single_file(place.source):
        _attempted(model, place, lambda local: _read_index(place, settings, local))


def _from_pretrained(model: str, place: Place, dtype: str, settings: DeploymentSettings) -> Any:
    return _attempted(model, place, lambda local: _load_once(place, dtype, settings, local))


def _attempted(model: str, place: Place, read: Callable[[bool], Any]) -> Any:
    """What ``read`` returns; called with True it reads this machine's files alone, else the hub's too."""
    from huggingface_hub import constants

    attempts = [True] if os.path.isdir(place.source) or constants.HF_HUB_OFFLINE else [True, False]
    failures: list[Exception] = []
    for local in attempts:
        try:
            with quiet():
                return read(local)
        except PostdiffError:
            raise
        except Exception as error:  # damaged files make diffusers, transformers and safetensors raise a dozen kinds
            failures.append(error)
    raise _missing(model, place, failures[-1], offline=attempts == [True]) from failures[-1]


def _read_index(place: Place, settings: DeploymentSettings, local: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """(``model_index.json``, whose class is a supported one; the options with which the other files are read)."""
    from diffusers import DiffusionPipeline

    options: dict[str, Any] = {"local_files_only": local}
    if settings.variant is not None:
        options["variant"] = settings.variant
    if place.revision:
        options["revision"] = place.revision
    index = DiffusionPipeline.load_config(place.source, **options)
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise ValueError("model_index.json names no pipeline class")
    _refuse_other_class(index["_class_name"])
    return index, options


def _load_once(place: Place, dtype: str, settings: DeploymentSettings, local: bool) -> Any:
    import torch
    from diffusers import DiffusionPipeline, UNet2DConditionModel

    card, source = place.card, place.source
    if is_single_file(source):
        return _load_file(source, dtype, settings, local)
    index, options = _read_index(place, settings, local)
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
            unet,
            revision=place.unet_revision,
            dtype=options["dtype"],
            use_safetensors=True,
            local_files_only=local,
        )
    if settings.vae is not None:
        options["vae"] = _load_vae(settings.vae, dtype, local, _own_vae(place, local))
    with complete():
        return DiffusionPipeline.from_pretrained(source, **options)


def _load_file(path: str, dtype: str, settings: DeploymentSettings, local: bool) -> Any:
    """The pipeline of a checkpoint in one file; what does not fit is refused before its weights are read."""
    import torch

    kind = kind_of(path)
    settings.card(card_of_kind(kind))
    options: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if settings.vae is not None:
        options["vae"] = _load_vae(settings.vae, dtype, local, card_of_kind(kind).network_config("vae"))
    with complete():
        return load_single_file(path, kind, options)


def _own_vae(place: Place, local: bool) -> Mapping[str, Any]:
    """The configuration of a model's own autoencoder, by its card, or as it lies beside its weights."""
    if place.card is not None and "vae" in place.card.networks:
        return place.card.network_config("vae")
    from diffusers import AutoencoderKL

    revision = place.revision or None
    found: dict[str, Any] = AutoencoderKL.load_config(
        place.source, subfolder="vae", revision=revision, local_files_only=local
    )
    return found


def _load_vae(source: str, dtype: str, local: bool, own: Mapping[str, Any]) -> Any:
    """Another autoencoder, of the class that its configuration names, in the place of one of configuration ``own``.

    Raises:
        ModelError: it cannot be loaded, or is none for this model.
    """
    import diffusers
    import torch
    from huggingface_hub import constants

    place, options = source, dict[str, Any](local_files_only=local)
    if hub := on_hub(source):
        place, options["revision"] = pinned(f"--vae {source}", source)
    try:
        config = diffusers.AutoencoderKL.load_config(place, **options)
        check_latents(source, config, own)
        kind = getattr(diffusers, str(config["_class_name"]))
        return kind.from_pretrained(place, dtype=getattr(torch, dtype), use_safetensors=True, **options)
    except ModelError:
        raise
    except Exception as error:  # damaged files make diffusers raise a dozen kinds
        if hub and local and not constants.HF_HUB_OFFLINE:
            raise  # it is not in the cache; the next attempt asks the hub
        raise ModelError(f"--vae {source}", f"it does not load ({reason_of(error)})", "give an autoencoder") from error


def _refuse_other_class(name: str) -> None:
    """Refuse a pipeline class of no family, or one that diffusers lacks, before its weights are read.

    Raises:
        UnsupportedError: such a class.
    """
    import diffusers

    found = getattr(diffusers, name, None)
    supported = isinstance(found, type) and any(family_named(cls.__name__) is not None for cls in found.__mro__)
    if not supported:
        absent = "" if found is not None else f"diffusers {diffusers.__version__} has no such class, and "
        raise UnsupportedError(
            f"pipeline class {name}",
            f"{absent}postdiff runs {', '.join(family.pipeline_class for family in FAMILIES)}",
            "give a text-to-image model of one of these",
        )


def _missing(model: str, place: Place, error: Exception, *, offline: bool) -> ModelError:
    source, revision = place.source, place.revision
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
    fetch = [f"fetch it with: hf download {source} --revision {revision}"]
    if place.card is not None and place.unet_revision:
        fetch.append(f"hf download {place.card.unet_hub_id} --revision {place.unet_revision}")
    where = f"{cache} (offline)" if offline else f"{cache} and on huggingface.co"
    return ModelError(
        f"model {model!r}",
        f"{source} at revision {revision} was looked for in {where} and not loaded ({first})",
        " and ".join(fetch),
    )
