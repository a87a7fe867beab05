"""Is this a block of scores? What a line of a score file, or a row of a shared table, must hold to be counted."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from typing import Any

from postdiff_calib.errors import KnobError
from postdiff_calib.knobs import Knobs


def check_block(block: Any) -> None:
    """Refuse a block that could not be counted as it is.

    Args:
        block: plain data; see ``evaluate`` for its form.

    Raises:
        ValueError: says what is wrong with it.
    """
    if not isinstance(block, dict):
        raise ValueError("it is no mapping")
    for name, kind in (("plan", str), ("knobs", dict), ("prompts", list), ("scores", list)):
        if not isinstance(block.get(name), kind):
            raise ValueError(f"{name} is missing or of another type")
    try:
        Knobs.from_dict(block["knobs"])
    except (KnobError, TypeError) as error:
        raise ValueError(f"its knobs are none ({error})") from error
    prompts = block["prompts"]
    check_prompts(prompts)
    _check_values("scores", block["scores"], len(prompts))
    measures = block.get("measures", {})
    if not isinstance(measures, dict):
        raise ValueError("measures are of another type")
    for name, values in measures.items():
        _check_values(name, values, len(prompts))
    _check_features(block.get("features"), len(prompts))
    _check_set_aside(block.get("set_aside", {}))


def check_prompts(prompts: Any) -> None:
    """Refuse what are no numbers of prompts.

    Raises:
        ValueError: it is no list of whole numbers from 0 on.
    """
    numbers = isinstance(prompts, list) and all(isinstance(i, int) and not isinstance(i, bool) for i in prompts)
    if not numbers or any(i < 0 for i in prompts):
        raise ValueError("a prompt's number is none")


def check_table(name: str, rows: Any, shape: tuple[int, ...]) -> None:
    """Refuse what is no table of numbers of this shape.

    Raises:
        ValueError: naming it.
    """
    import numpy as np

    try:
        found = np.asarray(rows, dtype=np.float64).shape
    except (TypeError, ValueError):
        found = None
    if found != shape:
        raise ValueError(f"{name} are no table of {' × '.join(map(str, shape))} numbers")


def _check_values(name: str, values: Any, count: int) -> None:
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"{name} are not one number a prompt")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{name} hold something that is no finite number")


def _check_features(features: Any, count: int) -> None:
    if not features:
        return
    try:
        size = len(base64.b64decode(features, validate=True))
    except (TypeError, ValueError, binascii.Error) as error:
        raise ValueError("its embeddings are not base64") from error
    if not count or size % (2 * count):
        raise ValueError("its embeddings are not one a prompt")


def _check_set_aside(aside: Any) -> None:
    if not isinstance(aside, Mapping) or not all(str(i).isascii() and str(i).isdigit() for i in aside):
        raise ValueError("the prompts set aside are no numbers")
