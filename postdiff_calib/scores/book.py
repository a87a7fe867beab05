"""Paired per-prompt scores: every plan sees the same prompts with the same seeds, and nothing is computed twice.

An ``Evaluator`` makes the images of some prompts under some knobs and scores them; the seed of prompt i is the base
seed + i in every plan, so that scores are compared prompt by prompt. ``ScoreBook`` remembers scores by the plan's
plan id and keeps each block of prompts in its store as soon as it is scored: a killed process loses at most the block
in hand, and knobs that compile to the same plan share their scores.

Beside scores, an evaluator may measure the images by other metrics and hand over their embeddings
(``MeasuringEvaluator``); they are kept in the same block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from postdiff_calib.cost.budget import PlanCost
from postdiff_calib.errors import StudyError
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.progress import log_event
from postdiff_calib.quality.health import HealthError
from postdiff_calib.scores.measured import Embeddings, Measured
from postdiff_calib.scores.objective import Objective
from postdiff_calib.scores.select import PlanScores
from postdiff_calib.scores.store import ScoreStore

Scores = npt.NDArray[np.float64]

#: Share of the prompts that may be set aside because the baseline's own image is broken.
SET_ASIDE_SHARE = 0.1


class Evaluator(Protocol):
    """Makes and scores images; the seed of prompt i is the same in every call."""

    def scores(self, knobs: Knobs, indices: Sequence[int]) -> list[float]:
        """One score per index, higher is better.

        Args:
            knobs: how to run the model.
            indices: positions in the evaluator's prompt set.

        Raises:
            PostdiffError: the images are broken or cannot be made; the trial fails under that name.
        """
        ...


@runtime_checkable
class MeasuringEvaluator(Evaluator, Protocol):
    """An evaluator that also measures images otherwise, such as against the baseline's."""

    def measured(self, knobs: Knobs, indices: Sequence[int]) -> Measured:
        """As ``scores``, with measures and embeddings of the same images."""
        ...


class ScoreBook:
    """An evaluator that remembers, and pairs every plan with the baseline.

    Args:
        evaluator: makes and scores images.
        num_prompts: N, size of the prompt set.
        baseline: knobs of the baseline.
        store: where blocks are kept; a file in the study's folder by default of ``study.run_search``.
        objective: what ``differences`` are of.

    Attributes:
        images_made: images made by this process; remembered ones do not count.
        set_aside: prompts of which the baseline's own image is broken, with the reason; they are scored for no plan.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        num_prompts: int,
        baseline: Knobs,
        store: ScoreStore,
        objective: Objective = Objective(),  # noqa: B008  # immutable
    ) -> None:
        self._evaluator = evaluator
        self.objective = objective
        self.num_prompts = num_prompts
        self.baseline = compile_plan(baseline).plan_id
        self._baseline_knobs = baseline
        self._store = store
        self._scores: dict[str, Scores] = {}
        self._counts: dict[str, int] = {}
        self._measures: dict[str, dict[str, Scores]] = {}
        self._features: dict[str, Embeddings] = {}
        self._knobs: dict[str, Knobs] = {}
        self._differences: dict[str, Scores] = {}
        self.set_aside: dict[int, str] = {}
        self.images_made = 0
        self.refresh()

    def refresh(self) -> None:
        """Take in what other processes have stored."""
        for block in self._store.read():
            self.set_aside |= {int(i): str(reason) for i, reason in block.get("set_aside", {}).items()}
            self._note(block["plan"], Knobs.from_dict(block["knobs"]), block["prompts"], Measured.from_block(block))

    def _note(self, plan: str, knobs: Knobs, indices: Sequence[int], measured: Measured) -> None:
        if indices and not (min(indices) >= 0 and max(indices) < self.num_prompts):
            raise StudyError(
                f"scores of prompt {max(indices)}",
                f"the prompt set has {self.num_prompts} prompts",
                "use the study's own number of prompts, or start anew (--fresh)",
            )
        self._knobs.setdefault(plan, knobs)
        where = list(indices)
        row = self._scores.setdefault(plan, np.full(self.num_prompts, math.nan))
        row[where] = measured.scores
        self._counts[plan] = int(np.isfinite(row).sum())
        for name, values in measured.measures.items():
            rows = self._measures.setdefault(plan, {})
            rows.setdefault(name, np.full(self.num_prompts, math.nan))[where] = values
        if measured.features is not None:
            shape = (self.num_prompts, measured.features.shape[1])
            self._features.setdefault(plan, np.full(shape, math.nan, np.float16))[where] = measured.features
        if plan == self.baseline:
            self._differences.clear()
        self._differences.pop(plan, None)

    def scores(self, knobs: Knobs, indices: Sequence[int]) -> list[float]:
        """Scores of these prompts, made where they are not known yet; one block is stored at once.

        A prompt of which the baseline's own image is broken is set aside: its score is NaN for every plan.

        Raises:
            StudyError: more than one prompt in ten had to be set aside: the model itself does not work here.
        """
        plan = compile_plan(knobs).plan_id
        row = self.known(plan)
        missing = [i for i in dict.fromkeys(indices) if math.isnan(row[i]) and i not in self.set_aside]
        if missing:
            aside: dict[int, str] = {}
            try:
                made = self._make(knobs, missing)
            except HealthError:
                if plan != self.baseline:
                    raise
                aside = self._broken(knobs, missing)
                missing = [i for i in missing if i not in aside]
                made = self._make(knobs, missing) if missing else Measured([])
            block = {"plan": plan, "knobs": knobs.as_dict(), "prompts": missing, **made.as_block()}
            self._store.append({**block, "set_aside": aside} if aside else block)
            self.set_aside |= aside
            self._note(plan, knobs, missing, made)
            self.images_made += len(missing)
            log_event("block", plan=plan, knobs=knobs.describe(), prompts=missing, set_aside=sorted(aside))
            self._refuse_broken_model()
        row = self.known(plan)
        return [float(row[i]) for i in indices]

    def _broken(self, knobs: Knobs, indices: list[int]) -> dict[int, str]:
        """Which of these prompts give broken images, and why, found one by one."""
        found = {}
        for i in indices:
            try:
                self._make(knobs, [i])
            except HealthError as error:
                found[i] = str(error)
        return found

    def _refuse_broken_model(self) -> None:
        if len(self.set_aside) > max(1, SET_ASIDE_SHARE * self.num_prompts):
            raise StudyError(
                f"the baseline's images of {len(self.set_aside)} of {self.num_prompts} prompts",
                f"they are broken, and at most one in ten may be ({next(iter(self.set_aside.values()))})",
                "check the model and --dtype",
            )

    def _make(self, knobs: Knobs, indices: list[int]) -> Measured:
        if isinstance(self._evaluator, MeasuringEvaluator):
            made = self._evaluator.measured(knobs, indices)
        else:
            made = Measured(self._evaluator.scores(knobs, indices))
        made.check(indices, knobs.describe())
        return made

    def known(self, plan: str) -> Scores:
        """Scores of a plan by its plan id: (N,), NaN where unknown."""
        row = self._scores.get(plan)
        return np.full(self.num_prompts, math.nan) if row is None else row

    def measures(self, plan: str, name: str) -> Scores:
        """A measure of a plan (``scene``, ``ssim``, ``psnr``, ``lpips``): (N,), NaN where unknown."""
        return self._measures.get(plan, {}).get(name, np.full(self.num_prompts, math.nan))

    def features(self, plan: str) -> Embeddings | None:
        """Unit embeddings of a plan's images: (N, D), rows of NaN where unknown; None where there are none."""
        return self._features.get(plan)

    def plan_scores(self, knobs: Knobs, cost: PlanCost) -> PlanScores:
        """Everything known of a plan, as it stands now."""
        plan = compile_plan(knobs).plan_id
        features = self._features.get(plan)
        return PlanScores(
            knobs,
            cost,
            self.known(plan).copy(),
            {name: row.copy() for name, row in self._measures.get(plan, {}).items()},
            None if features is None else features.copy(),
        )

    def count(self, plan: str) -> int:
        """How many prompts of a plan are scored."""
        return self._counts.get(plan, 0)

    @property
    def images_known(self) -> int:
        """Images that have a score, whoever made them and when."""
        return sum(self._counts.values())

    def complete(self, plan: str) -> bool:
        """Whether every prompt of a plan is scored, those set aside left out."""
        return self.count(plan) >= self.num_prompts - len(self.set_aside)

    def quality(self, plan: str) -> Scores:
        """The objective's value of a plan on each prompt: (N,), NaN where a metric of it is unknown."""
        return self.objective.values(self.known(plan), self._measures.get(plan, {}))

    def differences(self, plan: str) -> Scores:
        """Objective minus the baseline's, prompt by prompt: (N,), read-only, NaN where either is unknown."""
        found = self._differences.get(plan)
        if found is None:
            # asked for at every proposal of a search, of every plan
            found = self.quality(plan) - self.quality(self.baseline)
            found.flags.writeable = False
            self._differences[plan] = found
        return found

    def blocks(self) -> Iterator[dict[str, Any]]:
        """Everything known, one block for the prompts of a plan of which the same things are known."""
        if self.set_aside:
            empty = {"plan": self.baseline, "knobs": self._baseline_knobs.as_dict(), "prompts": [], "scores": []}
            yield {**empty, "set_aside": dict(self.set_aside)}
        for plan, knobs in self._knobs.items():
            rows = self._measures.get(plan, {})
            features = self._features.get(plan)
            groups: dict[tuple[str, ...], list[int]] = {}
            for i in np.flatnonzero(np.isfinite(self._scores[plan])).tolist():
                known = [name for name, row in rows.items() if np.isfinite(row[i])]
                if features is not None and np.isfinite(features[i]).all():
                    known.append("features")
                groups.setdefault(tuple(known), []).append(i)
            for names, prompts in groups.items():
                measured = Measured(
                    self._scores[plan][prompts].tolist(),
                    {name: rows[name][prompts].tolist() for name in names if name != "features"},
                    features[prompts] if features is not None and "features" in names else None,
                )
                yield {"plan": plan, "knobs": knobs.as_dict(), "prompts": prompts, **measured.as_block()}

    @property
    def plans(self) -> Mapping[str, Knobs]:
        """Every plan that has a score, with the knobs it was first run under."""
        return dict(self._knobs)
