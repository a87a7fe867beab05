"""A made-up model for tests of the search: losses, spreads and costs shaped like those measured on the embedded model.

Scores are 100 × cosine. A plan's true loss is nearly additive in the knobs, with k × T and s × k interactions and a
small private deviation; the spread of paired differences grows with the root of the loss. No images.
"""

import hashlib

import numpy as np

from postdiff_calib.cost.budget import Limit, PlanCost
from postdiff_calib.plan import compile_plan
from postdiff_calib.search.space import SearchSpace, candidate

SCALES = (0.375, 0.5, 0.625, 0.75, 0.875)
SPACE = SearchSpace(20, {"num_inference_steps": tuple(range(4, 21)), "low_res_scale": SCALES})
SMALL = SearchSpace(
    12,
    {
        "num_inference_steps": (4, 6, 8, 10, 12),
        "low_res_fraction": (0.0, 0.3, 0.5),
        "low_res_scale": (0.5, 0.75),
        "cache_interval": (1, 2, 3),
        "guidance_fraction": (1.0, 0.75, 0.45),
    },
)


def price(plan):
    cost = 0.0
    for kind, count in plan.kinds().items():
        step = (plan.knobs.low_res_scale**2 if kind.low_res else 1.0) * (2 if kind.guided else 1)
        cost += count * step * (1.0 if kind.refresh else 0.35)
    return PlanCost(macs=cost * 1e8, macs_paper=cost * 0.7e8)


def limit(share, space=SPACE):
    baseline = price(compile_plan(space.baseline)).macs
    return Limit("macs", "median", share * baseline, baseline)


def loss(c, private=0.08):
    total, s, beta, k, m = c.coordinates()
    steps = 120 * (total**-2.2 - 20**-2.2)
    low = 1.2 * (s / 0.5) ** 1.5 * ((1 - beta) / 0.5) ** 1.3
    cache = {1: 0.0, 2: 0.3, 3: 0.6, 4: 1.8, 5: 4.2}[int(k)] * (20 / total) ** 0.7
    guide = 1.3 * ((1 - m) / 0.55) ** 1.4
    seed = int(hashlib.sha256(c.plan_id.encode()).hexdigest()[:8], 16)
    own = private * np.random.default_rng(seed).standard_normal() if steps + low + cache + guide > 1e-9 else 0.0
    return max(0.0, steps + low + cache + guide + 0.5 * low * cache + own)


class Surface:
    """An evaluator: score of prompt i = its own level − loss × its sensitivity + noise fixed by plan and prompt."""

    def __init__(self, num_prompts=500, seed=0, space=SPACE, private=0.08, noise=1.0):
        rng = np.random.default_rng(seed)
        self.level = 62 + 6 * rng.standard_normal(num_prompts)
        self.num_prompts, self.seed, self.space, self.private = num_prompts, seed, space, private
        self.noise = noise
        self.images = 0
        self.calls = []
        self._rows = {}

    def row(self, knobs):
        c = candidate(compile_plan(knobs), price)
        if c.plan_id not in self._rows:
            own = int(hashlib.sha256(c.plan_id.encode()).hexdigest()[:8], 16)
            mean = loss(c, self.private)
            spread = 0.0 if compile_plan(knobs).is_identity and knobs == self.space.baseline else 5 * mean**0.5 + 0.5
            noise = np.random.default_rng([self.seed, own]).standard_normal(self.num_prompts)
            self._rows[c.plan_id] = self.level - mean + self.noise * spread * noise
        return self._rows[c.plan_id]

    def scores(self, knobs, indices):
        self.images += len(indices)
        self.calls.append((knobs, list(indices)))
        return [float(value) for value in self.row(knobs)[list(indices)]]


def exhaustive(surface, candidates):
    """Full-set mean of every candidate."""
    return np.array([surface.row(c.knobs).mean() for c in candidates])
