"""The accelerated sampler on stock diffusers pipelines.

Importing this package imports no torch: its names are looked up when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from postdiff_calib.accelerate.attach import accelerated, disable, enable, summary
    from postdiff_calib.accelerate.network import NetworkAttachment
    from postdiff_calib.accelerate.run_summary import RunSummary, StepRecord
    from postdiff_calib.models.families import FAMILIES, Family, family_of

_HOMES = {
    "FAMILIES": "postdiff_calib.models.families",
    "Family": "postdiff_calib.models.families",
    "NetworkAttachment": "postdiff_calib.accelerate.network",
    "RunSummary": "postdiff_calib.accelerate.run_summary",
    "StepRecord": "postdiff_calib.accelerate.run_summary",
    "accelerated": "postdiff_calib.accelerate.attach",
    "disable": "postdiff_calib.accelerate.attach",
    "enable": "postdiff_calib.accelerate.attach",
    "family_of": "postdiff_calib.models.families",
    "summary": "postdiff_calib.accelerate.attach",
}

__all__ = [
    "FAMILIES",
    "Family",
    "NetworkAttachment",
    "RunSummary",
    "StepRecord",
    "accelerated",
    "disable",
    "enable",
    "family_of",
    "summary",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
