"""What options say of files on this machine, against the files that are there, before any weights are read."""

from __future__ import annotations

import re
from pathlib import Path

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
