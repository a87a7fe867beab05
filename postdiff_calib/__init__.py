"""postdiff: the compute-optimal way to run a text-to-image diffusion model, step reduction or cheaper steps.

Public names; each is imported on first use, so that importing the package is immediate::

    from postdiff_calib import Knobs, calibrate, enable

    enable(pipe, Knobs(20, low_res_fraction=0.5, low_res_scale=0.5, cache_interval=2))
    images = pipe("a red circle").images

    result = calibrate(pipe, budget="60%", prompts="prompts.txt")  # on a pipeline that is not enabled
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from postdiff_calib.accelerate import accelerated, disable, enable, summary
    from postdiff_calib.api import Result, calibrate, judge, price, verify
    from postdiff_calib.knobs import Knobs
    from postdiff_calib.plan import StepPlan, compile_plan
    from postdiff_calib.profile import Profile, load_profile

_HOMES = {
    "Knobs": "postdiff_calib.knobs",
    "Profile": "postdiff_calib.profile",
    "Result": "postdiff_calib.api",
    "StepPlan": "postdiff_calib.plan",
    "accelerated": "postdiff_calib.accelerate",
    "calibrate": "postdiff_calib.api",
    "compile_plan": "postdiff_calib.plan",
    "disable": "postdiff_calib.accelerate",
    "enable": "postdiff_calib.accelerate",
    "judge": "postdiff_calib.api",
    "load_profile": "postdiff_calib.profile",
    "price": "postdiff_calib.api",
    "summary": "postdiff_calib.accelerate",
    "verify": "postdiff_calib.api",
}

__all__ = [
    "Knobs",
    "Profile",
    "Result",
    "StepPlan",
    "accelerated",
    "calibrate",
    "compile_plan",
    "disable",
    "enable",
    "judge",
    "load_profile",
    "price",
    "summary",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
