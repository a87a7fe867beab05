"""LoRA weights, merged into a pipeline's networks when it is loaded: W + scale · B·A (Hu et al., arXiv 2106.09685).

Merged weights cost what the plain ones cost, so a plan's MACs stay as they are. The model's fingerprint takes in the
files' bytes and their scales.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postdiff_calib.errors import ModelError, UsageError, reason_of
from postdiff_calib.models.hub import on_hub, pinned
from postdiff_calib.models.listening import quiet

_SCALE = re.compile(r"(.+):([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)", re.ASCII)


@dataclass(frozen=True)
class Lora:
    """One LoRA: a file of safetensors, a folder with one, or ``owner/name@COMMIT`` on the hub; and its scale."""

    source: str
    scale: float = 1.0


def parse_lora(text: str) -> Lora:
    """Read ``FILE_OR_ID`` or ``FILE_OR_ID:SCALE``.

    Raises:
        UsageError: nothing is named, or the scale is not finite.
    """
    match = None if os.path.exists(text) else _SCALE.fullmatch(text)
    source, scale = (match[1], float(match[2])) if match else (text, 1.0)
    if not source.strip() or not math.isfinite(scale):
        raise UsageError(
            f"--lora {text}", "it is FILE_OR_ID or FILE_OR_ID:SCALE", "write such as style.safetensors:0.8"
        )
    return Lora(source, scale)


def check_loras(texts: Sequence[str], pipeline_class: str) -> None:
    """Refuse LoRAs that cannot be loaded, before a model's weights are read.

    Args:
        texts: as ``parse_lora`` reads them.
        pipeline_class: of the model.

    Raises:
        UsageError: peft is not installed, or the class takes none.
        ModelError: no such file, or it holds no LoRA; on the hub, and no commit of it is known.
    """
    if not texts:
        return
    import importlib.util

    import diffusers

    given = f"--lora {texts[0]}"
    if importlib.util.find_spec("peft") is None:
        raise UsageError(given, "it needs peft", "install it: pip install 'postdiff[lora]'")
    if not hasattr(getattr(diffusers, pipeline_class, None), "load_lora_weights"):
        raise UsageError(given, f"{pipeline_class} takes none", "leave it out")
    for text in texts:
        source = parse_lora(text).source
        if on_hub(source):
            pinned(f"--lora {text}", source)
        else:
            _check_file(text, _file_of(text, source))


def merge_loras(pipe: Any, texts: Sequence[str], fingerprint: str) -> str:
    """Merge LoRAs into a pipeline's networks, one after another; returns the fingerprint with them.

    Raises:
        ModelError: one cannot be loaded, or fits none of the networks.
    """
    digest = hashlib.sha256(fingerprint.encode())
    for text in texts:
        one = parse_lora(text)
        try:
            path = _downloaded(text, one.source) if on_hub(one.source) else _file_of(text, one.source)
            with quiet():  # diffusers remarks on every network that the LoRA leaves alone
                pipe.load_lora_weights(
                    str(path.parent), weight_name=path.name, adapter_name="merged", local_files_only=True
                )
            fitted = bool(pipe.get_list_adapters())
            pipe.fuse_lora(lora_scale=one.scale, adapter_names=["merged"])
            pipe.unload_lora_weights()
        except ModelError:
            raise
        except Exception as error:  # diffusers and peft raise what they like
            raise ModelError(f"--lora {text}", f"it does not load ({reason_of(error)})", "give another file") from error
        if not fitted:
            raise ModelError(f"--lora {text}", "it fits none of the model's networks", "give one made for this model")
        digest.update(hashlib.sha256(path.read_bytes()).digest() + repr(one.scale).encode())
    return digest.hexdigest()[:16]


def _file_of(text: str, source: str) -> Path:
    """The file of a local LoRA.

    Raises:
        ModelError: there is none, or several.
    """
    path = Path(source)
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise ModelError(f"--lora {text}", f"the folder holds {len(found)} files of safetensors", "name the file")
        return found[0]
    return path


def _check_file(text: str, path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"--lora {text}", f"it cannot be read ({reason_of(error)})", "give a .safetensors file"
        ) from error
    if not any("lora" in name.lower() for name in names):
        raise ModelError(f"--lora {text}", "it holds no LoRA: no tensor is named so", "give a LoRA's file")


def _downloaded(text: str, source: str) -> Path:
    """The file of a LoRA on the hub, from the cache or, unless offline, from there."""
    from huggingface_hub import snapshot_download

    repository, commit = pinned(f"--lora {text}", source)
    return _file_of(text, snapshot_download(repository, revision=commit, allow_patterns=["*.safetensors"]))
