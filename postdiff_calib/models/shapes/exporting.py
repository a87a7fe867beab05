"""What both embedded models write beside their weights: hashes, the recipe, and nothing about the machine's folders."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from postdiff_calib.files import file_sha256

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def save_pipeline(pipe: Any, folder: Path) -> None:
    """Write a pipeline as safetensors; where this machine keeps its files is nobody's business."""
    pipe.save_pretrained(folder, safe_serialization=True)
    for path in folder.rglob("config.json"):
        config = {key: value for key, value in json.loads(path.read_text()).items() if key != "_name_or_path"}
        path.write_text(json.dumps(config, indent=2) + "\n")


def write_facts(out: Path, recipe: DataclassInstance, stages: dict[str, Any], device: torch.device) -> None:
    """Write ``recipe.json``: the recipe, what each stage came to, and the hash of every weights file under ``out``."""
    facts = {
        "recipe": asdict(recipe),
        "stages": stages,
        "sha256": {str(p.relative_to(out)): file_sha256(p) for p in sorted(out.rglob("*.safetensors"))},
        "machine": {"processor": platform.processor() or platform.machine(), "device": str(device)},
        "torch": torch.__version__,
    }
    (out / "recipe.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(f"exported to {out}")
