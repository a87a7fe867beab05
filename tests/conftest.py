"""Fixtures shared by all tests; the builders themselves are in ``pipelines.py``, which this folder makes importable."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
if "PYTEST_XDIST_WORKER" in os.environ:
    # Processes that run side by side have a thread each; torch reads this when it is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_xdist_auto_num_workers(config) -> int:
    """Processes that the tests are run in: several for the whole suite, this one for files that are named."""
    return 0 if config.option.file_or_dir else min(4, os.cpu_count() or 1)


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
