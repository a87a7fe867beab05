"""How many prompts it takes to rank settings as a large set of prompts does, from scores that are there already.

Source: PostDiff, arXiv 2508.06160, supplementary material D (figure 3). Sets of n prompts are drawn with replacement
from the N that are scored (the bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, 1993), every setting
on the same ones, so no size is flattered for being near N. The whole set's means count as the truth, which is itself
known to the accuracy of N prompts only: its variance is 1/N of a prompt's, that of a drawn set's means 1/n. Up to
n = N/2 the draw's is at least twice the truth's, and what is seen is mostly what a set of n does. From there on it is
as much what these N prompts happen to say, so no such size is recommended. Above N a set must repeat prompts, and
stands for more of them than were ever scored: an extrapolation, and shown as one.

Symbols: P settings, N prompts, n size of a drawn set, δ loss that is not cared about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from postdiff_calib.study.paper_saw import PROMPT_SIZES

Array = npt.NDArray[np.float64]

SIZES = (50, 100, 200, 500, 1000)
#: Draws of each size; a chance of 95 % is then known to 1.4 percentage points.
DRAWS = 1000


@dataclass(frozen=True)
class SizeRow:
    """What sets of one size do.

    Attributes:
        size: n.
        tau, tau_low, tau_high: Kendall's τ-b to the whole set's order: mean, and the middle 95 % of the draws.
        chance: share of the draws whose best setting is within δ of the whole set's best.
        loss: mean loss of the draws' best setting against the whole set's best, by the whole set.
    """

    size: int
    tau: float
    tau_low: float
    tau_high: float
    chance: float
    loss: float

    def extrapolated(self, num_prompts: int) -> bool:
        """Whether sets of this size are larger than the set that was scored."""
        return self.size > num_prompts


@dataclass(frozen=True)
class PromptSizes:
    """The answer for each size.

    Attributes:
        source: what the scores are of, as text.
        metric: name of the metric.
        settings, num_prompts: P and N.
        delta: δ, in the metric's unit.
        wanted: the chance that is asked for.
        rows: by size.
    """

    source: str
    metric: str
    settings: int
    num_prompts: int
    delta: float
    wanted: float
    rows: tuple[SizeRow, ...]

    @property
    def largest(self) -> int:
        """The largest size that may be recommended: half of the scored prompts."""
        return self.num_prompts // 2

    @property
    def recommended(self) -> int | None:
        """The smallest size from which on to ``largest`` the chance is as large as asked for; None where none is."""
        found = None
        for row in reversed(self._judged):
            if row.chance < self.wanted:
                break
            found = row.size
        return found

    @property
    def _judged(self) -> list[SizeRow]:
        return [row for row in self.rows if row.size <= self.largest]

    def answer(self) -> str:
        """The recommendation as a sentence."""
        if not self._judged:
            least = min(row.size for row in self.rows)
            return (
                f"{self.num_prompts} scored prompts are too few to recommend a size of {least} or more: at most half "
                f"as many are recommended, so score {2 * least} prompts, or ask for smaller sizes."
            )
        what = f"a setting within {self.delta:g} of the best with a chance of {self.wanted:.0%}"
        if self.recommended is None:
            most = self._judged[-1]
            return (
                f"None of these sizes up to {self.largest}, half of the scored prompts, picks {what}: {most.size} "
                f"prompts do with {most.chance:.0%}."
            )
        return f"{self.recommended} prompts pick {what} or more."

    @property
    def notes(self) -> list[str]:
        """What a reader must know of sizes above the number of scored prompts, in sentences."""
        if not any(row.extrapolated(self.num_prompts) for row in self.rows):
            return []
        return [
            f"Sizes above {self.num_prompts}, the number of scored prompts, are extrapolated: such a set must repeat "
            f"prompts. Sizes up to {self.largest}, half of the number, may be recommended."
        ]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PromptSizes:
        """Rebuild a result from ``as_dict``'s data, or from that of an earlier version.

        Raises:
            KeyError: something is missing.
        """
        names = [one.name for one in fields(SizeRow)]
        rows = tuple(SizeRow(**{name: row[name] for name in names}) for row in data["sizes"])
        own = {one.name: data[one.name] for one in fields(cls) if one.name != "rows"}
        return cls(rows=rows, **own)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "study": "prompt sizes",
            "source": self.source,
            "metric": self.metric,
            "settings": self.settings,
            "num_prompts": self.num_prompts,
            "delta": self.delta,
            "wanted": self.wanted,
            "sizes": [{**asdict(row), "extrapolated": row.extrapolated(self.num_prompts)} for row in self.rows],
            "largest": self.largest,
            "recommended": self.recommended,
            "answer": self.answer(),
            "notes": self.notes,
            "paper": PROMPT_SIZES,
        }


def sizes_study(
    scores: Array, delta: float, sizes: Sequence[int] = SIZES, *, draws: int = DRAWS, seed: int = 0
) -> tuple[SizeRow, ...]:
    """What sets of each size do.

    Args:
        scores: (P, N) finite, higher is better, P ≥ 2.
        delta: δ ≥ 0.
        sizes: n, each at least 1.
        draws: of each size.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    prompts = scores.shape[1]
    truth = scores.mean(1)
    rows = []
    for size in sizes:
        taus, losses = np.empty(draws), np.empty(draws)
        for i in range(draws):
            often = rng.multinomial(size, np.full(prompts, 1 / prompts))
            means = scores @ often / size
            losses[i] = truth.max() - truth[int(means.argmax())]
            taus[i] = stats.kendalltau(means, truth).statistic
        taus = np.nan_to_num(taus)  # all settings equal: there is no order to meet
        low, high = np.quantile(taus, (0.025, 0.975))
        within = float((losses <= delta + 1e-12).mean())
        rows.append(SizeRow(size, float(taus.mean()), float(low), float(high), within, float(losses.mean())))
    return tuple(rows)
