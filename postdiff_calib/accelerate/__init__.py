"""The accelerated sampler on stock diffusers pipelines."""

from postdiff_calib.accelerate.attach import accelerated, disable, enable, summary
from postdiff_calib.accelerate.network import NetworkAttachment
from postdiff_calib.accelerate.summary import RunSummary, StepRecord
from postdiff_calib.models.families import FAMILIES, Family, family_of

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
