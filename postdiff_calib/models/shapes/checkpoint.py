"""Training state in safetensors: model, optimiser and averages, written atomically, so that a stopped run resumes.

Nothing is pickled: tensors go to ``state.safetensors``, counters to its metadata.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from postdiff_calib.files import replacing


def save(
    path: Path, modules: dict[str, torch.nn.Module], optimizer: torch.optim.Optimizer, counters: dict[str, Any]
) -> None:
    """Write everything that a run needs to go on; a crash leaves the previous file whole.

    Raises:
        OutputError: it cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, module in modules.items():
        tensors |= {f"{name}/{key}": value for key, value in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": torch.as_tensor(value) for key, value in state.items()}
    flat = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    with replacing(path, f"checkpoint {path}", "check the folder") as temporary:
        try:
            save_file(flat, temporary, metadata={"counters": json.dumps(counters)})
        except SafetensorError as error:  # such as of a full disk
            raise OSError(str(error)) from error


def load(path: Path, modules: dict[str, torch.nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore what ``save`` wrote; returns the counters, or an empty dict when there is no such file."""
    if not path.exists():
        return {}
    tensors = load_file(path)
    counters = load_modules(path, modules, tensors)
    whole = optimizer.state_dict()
    states: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, index, field = key.split("/")
            states.setdefault(int(index), {})[field] = value
    if states:
        whole["state"] = states
        optimizer.load_state_dict(whole)
    return counters


def load_modules(
    path: Path, modules: dict[str, torch.nn.Module], tensors: dict[str, torch.Tensor] | None = None
) -> dict[str, Any]:
    """Fill modules from a checkpoint by their names in it; returns its counters."""
    tensors = load_file(path) if tensors is None else tensors
    for name, module in modules.items():
        prefix = f"{name}/"
        module.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
    with safe_open(path, framework="pt") as f:
        counters: dict[str, Any] = json.loads(f.metadata()["counters"])
    return counters
