"""How images are made, whatever the plan (``settings``), and making them (``images``, which imports torch).

Importing this package imports no torch: ``generate`` is looked up when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from postdiff_calib.generate.images import generate

__all__ = ["generate"]


def __getattr__(name: str) -> Any:
    if name != "generate":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from postdiff_calib.generate.images import generate

    return generate
