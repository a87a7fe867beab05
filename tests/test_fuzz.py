"""Readers of files and texts, fuzzed: nothing but the project's own errors, each one printable line."""

import fuzzing
import pytest
from hypothesis import HealthCheck, given, settings


@pytest.mark.parametrize("name", fuzzing.TARGETS)
def test_only_our_errors(name):
    strategy, check = fuzzing.TARGETS[name]

    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    @given(strategy)
    def run(example):
        check(example)

    run()
