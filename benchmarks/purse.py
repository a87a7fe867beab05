"""Images that a rival may make: it buys scores of plans on prompts with them.

A ``Purse`` makes scores of a plan's next prompts, counts the images, and refuses more than there are. The baseline's
images on the prompts used are counted for every rival alike. A rival may use all that is scored; a plan that is asked
for twice gets its next prompts. At the end the best mean over all prompts wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from worlds import Scores, World

Array = npt.NDArray[np.float64]


class Purse:
    """Scores of plans on prompts, bought with images.

    Attributes:
        used: images made so far, the baseline's included.
        curve: (images, row that the rival would choose from then on).
    """

    def __init__(self, world: World, scores: Scores, num_prompts: int, images: int) -> None:
        self.world, self.num_prompts, self.images = world, num_prompts, images
        self.used = 0
        self.curve: list[tuple[int, int]] = []
        self._scores = scores
        self._baseline = scores[world.baseline]
        self._had: dict[int, npt.NDArray[np.bool_]] = {}
        self._paired = np.zeros(num_prompts, dtype=np.bool_)
        self._differences: dict[int, Array] = {}
        self._stats: dict[int, tuple[int, float, float]] = {}
        self._among: frozenset[int] | None = None

    @property
    def left(self) -> int:
        """Images that may still be made."""
        return self.images - self.used

    def cost(self, row: int, prompts: Iterable[int]) -> int:
        """Images that these prompts would take, the baseline's included."""
        which = np.asarray(list(prompts), dtype=np.intp)
        had = self._had.get(row)
        return int((~self._paired[which]).sum() + (len(which) if had is None else (~had[which]).sum()))

    def take(self, row: int, prompts: int) -> bool:
        """Score a plan's next prompts; False, and nothing done, where no image is left for them."""
        had = self._had.get(row)
        missing = np.arange(self.num_prompts) if had is None else np.flatnonzero(~had)
        return self.take_at(row, missing[:prompts])

    def take_at(self, row: int, prompts: Iterable[int]) -> bool:
        """Score a plan on these prompts."""
        which = np.asarray(list(prompts), dtype=np.intp)
        cost = self.cost(row, which)
        if cost > self.left:
            return False
        had = self._had.setdefault(row, np.zeros(self.num_prompts, dtype=np.bool_))
        self.used += cost
        had[which] = True
        self._paired[which] = True
        if row not in self._differences:
            self._differences[row] = self._scores[row] - self._baseline
        seen = self._differences[row][had]
        spread = float(seen.var(ddof=1)) if len(seen) > 1 else np.nan
        self._stats[row] = len(seen), float(seen.mean()) if len(seen) else -np.inf, spread
        return True

    def n(self, row: int) -> int:
        """Prompts a plan was scored on."""
        return self._stats[row][0] if row in self._stats else 0

    def mean(self, row: int) -> float:
        """Its mean paired difference on them."""
        return self._stats[row][1]

    def variance(self, row: int) -> float:
        """The variance of those differences; NaN for a single one."""
        return self._stats[row][2]

    def known(self, row: int) -> Array:
        """Its paired differences, (N,), NaN on prompts that it was not scored on."""
        found: Array = np.where(self._had[row], self._differences[row], np.nan)
        return found

    def at(self, row: int, prompts: Iterable[int]) -> Array:
        """The paired differences on some of a plan's prompts."""
        found: Array = self._differences[row][list(prompts)]
        return found

    def doubt(self, row: int) -> float:
        """The standard error of a plan's mean, its variance drawn towards the usual one."""
        usual = float(np.nanmedian([v for n, _, v in self._stats.values() if n > 2] or [1.0]))
        n, _, variance = self._stats[row]
        own = usual if np.isnan(variance) else (variance * (n - 1) + 6 * usual) / (n + 5)
        return float(np.sqrt(own / n))

    @property
    def rows(self) -> list[int]:
        """Plans that were scored; within ``part``, those of them that are in question."""
        return [row for row in self._stats if self._among is None or row in self._among]

    def best(self) -> int:
        """The best mean among plans scored on all prompts, else the best mean of all."""
        return self.best_of(self.rows)

    def best_of(self, rows: Iterable[int]) -> int:
        """The same among some plans, of which one at least was scored."""
        scored = [row for row in rows if row in self._stats]
        complete = [row for row in scored if self.n(row) == self.num_prompts]
        return max(complete or scored, key=self.mean)

    @contextmanager
    def part(self, images: int, among: Iterable[int]) -> Iterator[None]:
        """Within it at most so many images are made in all, and only some plans are in question.

        Images are reserved for finalists that have no more than a short evaluation, since those that are known from
        before need not be the ones that are chosen.
        """
        whole, self.images, self._among = self.images, min(images, self.images), frozenset(among)
        try:
            yield
        finally:
            self.images, self._among = whole, None

    def note(self, row: int | None = None) -> None:
        """Enter in the curve what would be chosen now."""
        if self.rows:
            chosen = self.best() if row is None else row
            if not self.curve or self.curve[-1][1] != chosen:
                self.curve.append((self.used, chosen))

    def reserve(self, finalists: int, short: int) -> int:
        """Images that the best so many plans still need for all prompts; plans yet to come have a short evaluation."""
        best = sorted(self.rows, key=self.mean, reverse=True)[:finalists] if self._among is None else []
        missing = sum(self.num_prompts - self.n(row) for row in best)
        missing += (finalists - len(best)) * (self.num_prompts - short)
        return missing + int((~self._paired).sum())

    def finish(self, order: Iterable[int]) -> int:
        """Score these plans on all prompts, one after the other, as far as the images go; the best mean wins."""
        for row in order:
            if self.take(row, self.num_prompts):
                self.note()
        self.note()
        return self.best()
