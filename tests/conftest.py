"""Fixtures shared by all tests; the builders themselves are in ``pipelines.py``, which this folder makes importable."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def pytest_configure(config) -> None:
    # diffusers' schedulers hand tensors to numpy 2 in a form that it deprecates; not ours to change.
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation doesn't:DeprecationWarning:diffusers")
