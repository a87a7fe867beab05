"""Measured seconds kept on disk, under a fingerprint of all that they depend on.

The folder is ``$POSTDIFF_CACHE``, else ``$XDG_CACHE_HOME/postdiff``, else ``~/.cache/postdiff``. A file is written
whole or not at all; one that cannot be read counts as absent.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postdiff_calib.accelerate.compiled import mode_of
from postdiff_calib.cost.check import read_data
from postdiff_calib.cost.table import TABLE_VERSION, CostTable, Latency
from postdiff_calib.errors import ModelError, OutputError
from postdiff_calib.files import parse_json, read_json, write_atomically
from postdiff_calib.models.backends import attention_backends, memory_format

if TYPE_CHECKING:
    from postdiff_calib.cost.setting import Setting
    from postdiff_calib.models.load import LoadedModel


def environment_of(loaded: LoadedModel, batch_size: int) -> dict[str, Any]:
    """What seconds depend on besides the model: device, driver, versions, type, threads, how the network computes."""
    import torch

    pipe = loaded.pipe
    denoiser = getattr(pipe, loaded.card.denoiser_role)
    facts: dict[str, Any] = {
        "device": loaded.device,
        "device_name": device_name(loaded.device),
        "driver": _driver(loaded.device),
        "dtype": loaded.dtype,
        "batch_size": batch_size,
        "compiled": mode_of(denoiser),
        "attention": attention_backends(pipe),
        "memory_format": memory_format(denoiser),
        "scheduler": type(pipe.scheduler).__name__,
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
        "python": platform.python_version(),
    }
    if loaded.device.startswith("cuda"):
        facts["tf32"] = [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]
        facts["cudnn_benchmark"] = torch.backends.cudnn.benchmark
    else:
        facts["threads"] = torch.get_num_threads()
    return facts


def device_name(device: str) -> str:
    """The hardware as text, e.g. ``NVIDIA H100 80GB HBM3`` or the processor's model."""
    import torch

    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _driver(device: str) -> str:
    """The CUDA version that torch runs with and the kernel driver's, where there are any."""
    import torch

    if not device.startswith("cuda"):
        return ""
    try:
        first = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0]
    except (OSError, IndexError):
        first = ""
    return f"CUDA {torch.version.cuda}; {first}".rstrip("; ")


def cache_folder() -> Path:
    """Where measurements are kept.

    Raises:
        OutputError: no variable says where, and the user has no home.
    """
    if os.environ.get("POSTDIFF_CACHE"):
        return Path(os.environ["POSTDIFF_CACHE"])
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "postdiff"
    try:
        return Path.home() / ".cache" / "postdiff"
    except RuntimeError as error:  # no HOME, and a user that the system does not know
        raise OutputError(
            "cache folder", "this user has no home directory", "set POSTDIFF_CACHE to a folder that can be written"
        ) from error


def latency_path(loaded: LoadedModel, setting: Setting, environment: dict[str, Any]) -> Path:
    """The file of one measurement."""
    facts = {
        "table": TABLE_VERSION,
        "model": loaded.fingerprint,
        "setting": asdict(setting),
        "environment": environment,
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]
    return cache_folder() / "latency" / f"{digest}.json"


def load_latency(path: Path) -> Latency | None:
    """What was measured before, or None."""
    try:
        return read_data(parse_json(path.read_text(encoding="utf-8"))).latency
    except (OSError, ValueError, AttributeError, ModelError):
        return None


def save_latency(path: Path, table: CostTable, latency: Latency) -> None:
    """Keep a measurement; a cache that cannot be written is not an error, the next run measures again."""
    before, table.latency = table.latency, latency
    try:
        write_json(path, table.as_dict())
    except OutputError:
        pass
    finally:
        table.latency = before


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all.

    Raises:
        OutputError: the folder or file cannot be written.
    """
    write_atomically(path, json.dumps(data, indent=1) + "\n")


def read_table(path: Path) -> CostTable:
    """A cost table from a file that ``postdiff cost --measure --out`` wrote.

    Raises:
        ModelError: no such file, or not a table.
    """
    given, remedy = f"cost table {path}", "make one: postdiff cost --measure --out"
    data = read_json(path, given, ModelError, remedy)
    if not isinstance(data, dict):
        raise ModelError(given, "it is not a table", remedy)
    try:
        return read_data(data)
    except ModelError as error:
        raise ModelError(f"{given}: {error.given.removeprefix('cost ')}", error.rule, error.remedy) from error
