"""Which plans keep the guards: known from their scores, or believed of those that were not evaluated.

Where guards bound other metrics than the score, each has a surrogate of its own; plans whose draw (for finalists:
expected value) breaks a guard are passed over, a constrained Thompson sampling. Plans *known* to break one, by their
reading on all prompts or by more than its noise on some, are not proposed again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from postdiff_calib.quality.metrics import SCORE
from postdiff_calib.scores.book import ScoreBook
from postdiff_calib.scores.guards import Guard, Reading, deviation, deviation_error, excess, read
from postdiff_calib.search.space import Candidate
from postdiff_calib.search.surrogate import Observation, Posterior, variances_of_means


class Keeper:
    """Judges candidates by the guards.

    Args:
        guards: what a chosen plan must meet; with none, every plan does.
        candidates: M plans of the space.
        reference: the baseline.
        book: the scores.
        features, groups: of the candidates, as ``surrogate.Features`` makes them.
    """

    def __init__(
        self,
        guards: Sequence[Guard],
        candidates: Sequence[Candidate],
        reference: Candidate,
        book: ScoreBook,
        features: npt.NDArray[np.float64],
        groups: dict[str, slice],
    ) -> None:
        self._guards, self._candidates, self._reference, self._book = guards, candidates, reference, book
        self._features, self._groups = features, groups
        self._row = {c.plan_id: i for i, c in enumerate(candidates)}
        self._readings: dict[tuple[str, str, int, int], Reading | None] = {}

    def known_to_break(self, plan: str) -> bool:
        """Whether a plan breaks a guard: by its reading on all prompts, or beyond its noise on some of them."""
        complete = self._book.complete(plan)
        for guard in self._guards if plan in self._row else ():
            reading = self._reading(guard.metric, plan)
            if reading is None:
                if complete:
                    return True
            elif guard.surely(reading) == "broken" or (complete and not guard.met(reading)):
                return True
        return False

    def keeping(self, mask: npt.NDArray[np.bool_], rng: np.random.Generator | None = None) -> npt.NDArray[np.bool_]:
        """The members of ``mask``, (M,), believed to keep the guards; the nearest one where none is.

        By expected values, or with ``rng`` by a draw.
        """
        over = self._excess(rng)
        if over is None or not mask.any():
            return mask
        keeping: npt.NDArray[np.bool_] = mask & (over <= 0)
        if keeping.any():
            return keeping
        nearest = np.zeros_like(mask)
        nearest[int(np.where(mask, over, np.inf).argmin())] = True
        return nearest

    def _reading(self, metric: str, plan: str) -> Reading | None:
        """A guarded metric of a plan of the space, by plan id; None where too little is known."""
        base = self._book.baseline
        key = (metric, plan, self._book.count(plan), self._book.count(base))
        if key not in self._readings:
            found, base_scores = (
                self._book.plan_scores(c.knobs, c.cost) for c in (self._candidates[self._row[plan]], self._reference)
            )
            self._readings[key] = read(metric, found, base_scores)
        return self._readings[key]

    def _excess(self, rng: np.random.Generator | None) -> npt.NDArray[np.float64] | None:
        """By how much each candidate is believed to break its worst guard: expected, or drawn with ``rng``.

        As ``guards.excess``: (M,), 0 or less within all guards. None where no guard needs a surrogate: the score has
        one already, and the best score breaks its guard only where every plan does.
        """
        parts = []
        for guard in self._guards:
            seen = [(p, self._reading(guard.metric, p)) for p in self._book.plans if p in self._row]
            known = [(p, r) for p, r in seen if r is not None and p != self._reference.plan_id]
            if guard.metric == SCORE or len(known) < 2:
                continue
            observed = [
                Observation(p, r.n, deviation(guard.metric, r.value), r.n * deviation_error(guard.metric, r) ** 2)
                for p, r in known
            ]
            model = Posterior(
                self._features,
                self._groups,
                np.array([self._row[o.plan] for o in observed], dtype=np.intp),
                np.array([o.mean for o in observed]),
                variances_of_means(observed),
            )
            deviating = model.mean() if rng is None else model.draw(rng)[0]
            parts.append(excess(guard, deviating))
        return np.max(parts, axis=0) if parts else None
