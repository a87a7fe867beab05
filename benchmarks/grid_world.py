"""Means and noise for every plan of the shapes model's grid, from the recorded table of some of them.

The table (``search_table.py``) holds 469 of the grid's 17,489 plans. The rest get

- a mean difference to the baseline: a Gaussian process on the asinh of the recorded means (so that errors are in points
  near the top and relative where a plan loses a lot), plus a deviation of its own, drawn once. That deviation is as
  large as the leave-one-out errors are, so the grid is not smoother than the model it stands for;
- the noise of the nearest recorded plan, scaled to the standard deviation that a second Gaussian process predicts, and
  mixed with a share of its own. The share grows with the distance as the correlation of recorded plans falls.

Recorded plans keep what was recorded.

    python benchmarks/grid_world.py

Writes ``results/grid_world.npz`` and prints the leave-one-out errors.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
from worlds import recorded

from postdiff_calib.cost.build import table_for_card
from postdiff_calib.models.cards import get_card
from postdiff_calib.search.space import SearchSpace, coordinate_matrix

Array = npt.NDArray[np.float64]

RESULTS = Path(__file__).parent / "results"
#: Correlation of two recorded plans' noise: exp(−1.3 × their distance), each coordinate scaled to its range.
CORRELATION = 1.3
SEED = 0


def features(points: Array, share: Array) -> Array:
    """What the Gaussian processes see: each knob in the terms in which its effect is smooth, and the cost."""
    total, s, beta, k, m = points.T
    columns = [np.log(total), s, s * (1 - beta), np.log(k), (k - 1) / total, m, np.log(share)]
    raw = np.stack(columns, 1)
    return (raw - raw.mean(0)) / raw.std(0)


class Process:
    """A Gaussian process with a Matérn 5/2 kernel, a length per feature, and a linear part."""

    def __init__(self, x: Array, y: Array) -> None:
        self.x, self.centre = x, float(y.mean())
        self.y = y - self.centre
        start = np.concatenate([np.full(x.shape[1], np.log(2.0)), np.log([y.std(), 0.5 * y.std(), 0.2 * y.std()])])
        found = minimize(self._loss, start, method="L-BFGS-B", bounds=[(-2, 4)] * len(start), options={"maxiter": 60})
        self.theta = found.x
        self.factor = cho_factor(self._gram(self.theta))
        self.alpha = cho_solve(self.factor, self.y)
        self.deviation = float(np.exp(self.theta[-1]))

    def _kernel(self, a: Array, b: Array, theta: Array) -> Array:
        lengths, (scale, slope) = np.exp(theta[:-3]), np.exp(theta[-3:-1])
        a, b = a / lengths, b / lengths
        squared = np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0)
        r = np.sqrt(5 * squared)
        result: Array = scale**2 * (1 + r + r**2 / 3) * np.exp(-r) + slope**2 * (a @ b.T)
        return result

    def _gram(self, theta: Array) -> Array:
        gram = self._kernel(self.x, self.x, theta)
        gram[np.diag_indices_from(gram)] += np.exp(2 * theta[-1]) + 1e-8
        return gram

    def _loss(self, theta: Array) -> float:
        try:
            factor = cho_factor(self._gram(theta))
        except np.linalg.LinAlgError:
            return 1e9
        return float(0.5 * self.y @ cho_solve(factor, self.y) + np.log(np.diag(factor[0])).sum())

    def kernel(self, a: Array, b: Array) -> Array:
        """Covariances of what the knobs tell at two sets of points, with the lengths and scales that were found."""
        return self._kernel(a, b, self.theta)

    def __call__(self, x: Array) -> Array:
        """Predicted means."""
        return (
            np.concatenate([self.kernel(part, self.x) @ self.alpha for part in np.array_split(x, 1 + len(x) // 2000)])
            + self.centre
        )

    def left_out(self) -> Array:
        """What each value is predicted to be without itself."""
        inverse = cho_solve(self.factor, np.eye(len(self.y)))
        return self.y - self.alpha / np.diag(inverse) + self.centre


def process_of_means(x: Array, means: Array) -> tuple[Process, Array]:
    """The process on the asinh of recorded means, and its leave-one-out errors: own deviations are as large as these.

    Args:
        x: (n, features) of the recorded plans.
        means: (n,) theirs.
    """
    process = Process(x, np.arcsinh(means))
    return process, np.arcsinh(means) - process.left_out()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=RESULTS / "search_table.npz")
    parser.add_argument("--out", type=Path, default=RESULTS / "grid_world.npz")
    options = parser.parse_args()
    table = recorded(options.table)
    card = get_card("shapes")
    space = SearchSpace.from_card(card, card.latent_size())
    grid = space.candidates(table_for_card(card).price)
    rows = {c.plan_id: i for i, c in enumerate(grid)}
    at = np.array([rows[c.plan_id] for c in table.candidates])
    differences = table.scores - table.scores[table.baseline]
    means, deviations = differences.mean(1), differences.std(1)

    points = coordinate_matrix(grid)
    macs = np.array([c.cost.macs for c in grid])
    x = features(points, macs / macs[at[table.baseline]])
    real = np.flatnonzero(np.arange(len(at)) != table.baseline)
    process, error = process_of_means(x[at[real]], means[real])
    spread = Process(x[at[real]], np.log(deviations[real]))
    explained = 1 - error.var() / np.arcsinh(means[real]).var()
    print(f"means: leave-one-out R² {explained:.3f} (asinh), own {process.deviation:.3f}")
    points_error = means[real] - np.sinh(np.arcsinh(means[real]) - error)
    bands = [(-np.inf, -10), (-10, -3), (-3, -1), (-1, 0), (0, np.inf)]
    errors = {}
    for low, high in bands:
        inside = (means[real] > low) & (means[real] <= high)
        in_asinh, in_points = (float(np.sqrt(np.mean(e[inside] ** 2))) for e in (error, points_error))
        errors[f"{low:g}..{high:g}"] = [int(inside.sum()), in_asinh, in_points]
        print(
            f"  recorded {low:g} to {high:g}: {inside.sum()} plans, error {in_asinh:.3f} asinh, {in_points:.2f} points"
        )
    spread_error = np.log(deviations[real]) - spread.left_out()
    print(f"log standard deviations: leave-one-out error {spread_error.std():.3f}")

    smooth = np.sinh(process(x))
    own = float(np.sqrt(np.mean(error**2)))
    truth = np.sinh(process(x) + own * np.random.default_rng(SEED).standard_normal(len(grid)))
    truth[at] = means
    smooth[at[table.baseline]] = 0.0

    scaled = (points - points.min(0)) / np.ptp(points, axis=0)
    centres = scaled[at[real]]
    squared = (scaled**2).sum(1)[:, None] + (centres**2).sum(1) - 2 * scaled @ centres.T
    nearest = squared.argmin(1)
    distance = np.sqrt(np.maximum(squared[np.arange(len(grid)), nearest], 0))
    predicted = np.exp(spread(x))
    wanted = deviations[real][nearest] * predicted / predicted[at[real]][nearest]
    factor = wanted / deviations[real][nearest]
    factor[at], distance[at] = 1.0, 0.0
    about = {
        "table": options.table.name,
        "errors": errors,
        "own": own,
        "spread_error": float(spread_error.std()),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "seed": SEED,
    }
    neighbour = real[nearest]
    neighbour[at] = np.arange(len(at))
    np.savez_compressed(
        options.out,
        content=np.array([int(c.plan_id, 16) for c in grid], dtype=np.uint64),
        macs=macs,
        macs_paper=np.array([c.cost.macs_paper for c in grid]),
        truth=truth,
        smooth=smooth.astype(np.float32),
        neighbour=neighbour.astype(np.int16),
        factor=factor.astype(np.float32),
        correlation=np.exp(-CORRELATION * distance).astype(np.float32),
        about=json.dumps(about),
    )
    print(f"{options.out}: {len(grid)} plans, truth {truth.min():.1f} to {truth.max():.2f}")


if __name__ == "__main__":
    main()
