"""What distances say: means, intervals and the cheapest blocks and steps, from arrays told in the head."""

import numpy as np
import pytest

from postdiff_calib.study.redundancy import Redundancy, mean_of


def test_the_cheapest_blocks_and_steps_are_named():
    # Block b is the sum of its own and the step's distance: blocks 0.1, 0.3, 0.2; steps 1, 2, 3 add 0.3, 0.0, 0.1.
    base = np.array([0.1, 0.3, 0.2])[:, None] + np.array([0.3, 0.0, 0.1])[None]
    found = Redundancy(
        ("a", "b", "c"), {"x": 2, "y": 1}, np.stack([base, base]), np.ones((2, 2, 3)), np.ones((2, 2, 3))
    )
    blocks, steps, _ = found.summary()
    assert blocks.startswith("Blocks that are the cheapest to reuse: a (23 %), c (33 %), b (43 %); the dearest: b")
    assert "reuse on: 2 (20 %), 3 (30 %), 1 (50 %); the dearest: 1 (50 %)" in steps
    assert found.as_dict()["relative_l1"]["b"] == pytest.approx([0.6, 0.3, 0.4])
    assert found.as_dict()["layers"]["x"]["count"] == 2


def test_an_interval_is_students():
    found = mean_of(np.array([1.0, 3.0]))  # standard error 1, Student's quantile of one degree of freedom 12.706
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, 2 - 12.7062, 2 + 12.7062), abs=1e-3)
    assert vars(mean_of(np.array([1.0]))) == {"mean": 1.0, "low": 1.0, "high": 1.0}
