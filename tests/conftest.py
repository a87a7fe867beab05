"""Fixtures shared by all tests; the builders themselves are in ``pipelines.py``, which this folder makes importable."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def heard():
    """The kind of every event that is logged during a test, in order."""
    from postdiff_calib.files.log import listening

    class Kinds(logging.Handler):
        def emit(self, record):
            kinds.append(record.kind)

    kinds = []
    with listening(Kinds()):
        yield kinds


def pytest_configure(config) -> None:
    # diffusers' schedulers hand tensors to numpy 2 in a form that it deprecates; not ours to change.
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation doesn't:DeprecationWarning:diffusers")
