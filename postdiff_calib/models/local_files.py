"""What options say of files on this machine, against the files that are there, before any weights are read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from postdiff_calib.errors import ModelError, UsageError
from postdiff_calib.files import read_json
from postdiff_calib.models.hub import on_hub, pinned
from postdiff_calib.models.single_file import is_single_file


def check_vae(place: str) -> None:
    """Refuse an autoencoder that cannot be loaded.

    Args:
        place: a folder that ``save_pretrained`` wrote, or ``owner/name@COMMIT`` on the hub.

    Raises:
        ModelError: there is no such folder, it holds no autoencoder in safetensors, or no commit of it is known.
    """
    given, remedy = f"--vae {place}", "give the folder of an autoencoder, or OWNER/NAME@COMMIT"
    if on_hub(place):
        pinned(given, place)
        return
    folder = Path(place)
    if not folder.is_dir():
        raise ModelError(given, "there is no such folder", remedy)
    config = read_json(folder / "config.json", f"{given} (config.json)", ModelError, remedy)
    name = config.get("_class_name") if isinstance(config, dict) else None

    import diffusers

    if not hasattr(getattr(diffusers, str(name), None), "decode"):
        raise ModelError(given, f"its config.json names no autoencoder of diffusers ({name})", remedy)
    if not any(folder.glob("*.safetensors")):
        raise ModelError(given, "it holds no weights in safetensors", remedy)


def check_latents(vae: str, config: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse an autoencoder whose latents are not the model's; what a configuration does not say is passed over.

    Args:
        vae: as it was named.
        config: its configuration.
        own: that of the model's own autoencoder.

    Raises:
        ModelError: its latents have another number of channels, or are of another size.
    """
    theirs, ours = _latents(config), _latents(own)
    if any(a is not None and b is not None and a != b for a, b in zip(theirs, ours, strict=True)):
        told = [f"{channels} channels at 1/{factor}" for channels, factor in (theirs, ours)]
        rule = f"its latents have {told[0]} of the image's side, the model's {told[1]}"
        raise ModelError(f"--vae {vae}", rule, "give an autoencoder that was made for this model")


def _latents(config: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """(channels of the latents, image side over latent side)."""
    blocks = config.get("block_out_channels") or config.get("encoder_block_out_channels")
    return config.get("latent_channels"), None if blocks is None else 2 ** (len(blocks) - 1)


def check_variant(place: str, variant: str) -> None:
    """Refuse a variant of which a local model has no file; a place that is not on this machine is passed over.

    Args:
        place: folder of the pipeline, as ``save_pretrained`` writes it: a folder for each component; or another place.
        variant: such as ``fp16``, in names such as ``model.fp16.safetensors``.

    Raises:
        ModelError: no component has weights of it.
        UsageError: the model is one file.
    """
    if is_single_file(place):
        raise UsageError(f"--variant {variant}", f"{place} is one file, which has no variants", "leave it out")
    if not Path(place).is_dir():
        return
    named = re.compile(rf"\.{re.escape(variant)}(-\d+-of-\d+)?\.safetensors")
    names = [path.name for path in Path(place).glob("*/*.safetensors")]
    if not any(named.search(name) for name in names):
        found = {match[1] for name in names if (match := re.search(r"\.([\w-]+?)(-\d+-of-\d+)?\.safetensors", name))}
        remedy = f"take {', '.join(sorted(found))}" if found else "leave it out"
        raise ModelError(f"--variant {variant}", f"{place} holds no weights of that name", remedy)
