"""A study's record: what was asked, on which model, prompts and prices, kept beside its scores.

``study.json`` in the study's folder holds it; with the score files it is all that is needed to write a profile for any
budget, to compare, verify and report, or to join the work from another host: no model is loaded, no picture is made.

Files of a study: ``study.json`` (this record), ``scores.jsonl`` and ``held_out.jsonl`` (per-prompt scores on the
calibration and on the held-out prompts), ``study.db`` (Optuna's trials).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from postdiff_calib.budget import Budget, Limit
from postdiff_calib.cost.check import read_data
from postdiff_calib.cost.table import CostTable
from postdiff_calib.errors import PostdiffError, StudyError, reason_of
from postdiff_calib.files import parse_json, without_passwords, write_atomically
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.profile import Profile
from postdiff_calib.scores.book import FileStore, ScoreBook
from postdiff_calib.scores.guards import Guard, parse_guards
from postdiff_calib.scores.names import HELD_OUT, SCORES
from postdiff_calib.scores.objective import Objective, parse_per_metric
from postdiff_calib.scores.select import PlanScores
from postdiff_calib.search.unfound import Unfound
from postdiff_calib.study.check import check_record
from postdiff_calib.study.conclude import Evidence, Facts, Scored, SearchedBudget, conclude

RECORD = "study.json"
RECORD_VERSION = 2
#: Shares of the unaccelerated cost at which both arms are searched beside the asked-for budget.
FURTHER_SHARES = (0.25, 0.4, 0.8)
_SAME_SHARE = 1e-6


def further_limits(limit: Limit) -> tuple[Limit, ...]:
    """The trade-off's other budgets, in the terms of ``limit``."""
    own = limit.value / limit.baseline
    return tuple(
        Limit(limit.kind, limit.quantile, share * limit.baseline, limit.baseline)
        for share in FURTHER_SHARES
        if abs(share - own) > _SAME_SHARE
    )


def searched_data(budget: SearchedBudget) -> dict[str, Any]:
    """A searched budget as plain data; the inverse of ``searched_budget``."""
    limit, unfound = budget.limit, budget.unfound
    return {
        "limit": [limit.kind, limit.quantile, limit.value, limit.baseline],
        "finalists": list(budget.finalists),
        "unfound": None
        if unfound is None
        else [None if math.isinf(v) else v for v in (unfound.cheaper, unfound.fewer)],
        "fits": dict(budget.fits),
    }


def searched_budget(data: Mapping[str, Any]) -> SearchedBudget:
    """A searched budget from ``searched_data``'s data."""
    unfound = data["unfound"]
    if unfound is not None:
        cheaper, fewer = unfound
        unfound = Unfound(-math.inf if cheaper is None else cheaper, math.inf if fewer is None else fewer)
    return SearchedBudget(Limit(*data["limit"]), tuple(data["finalists"]), unfound, data["fits"])


@dataclass(frozen=True)
class StudyRecord:
    """What a study is about; plain data but for the cost table.

    Args:
        job: what ``calibrate`` was asked for: model, budget, prompts, num_prompts, seed, trials, sampler, noise, dtype,
            delta, weight, max_drop, guards.
        settings: keyword arguments of ``generate``: height, width, guidance_scale, batch_size, noise, latent_multiple.
        fingerprint: what scores depend on.
        num_inference_steps: T of the unaccelerated model.
        model, evidence, environment: the profile's sections, as far as they do not depend on scores.
        calibration, held_out: the prompts; prompt i has seed ``job["seed"] + i``, held-out ones counted on.
        cost: prices of plans on the machine that calibrated.
        trials: finished trials of the search.
        failed: (knobs, reason) of plans whose pictures were broken.
        objective: the metrics with their spreads, weights and δ, as ``Objective.as_data`` gives them.
        searched: the budgets that were searched, as ``searched_data`` gives them; those of earlier calls are kept.
    """

    job: Mapping[str, Any]
    settings: Mapping[str, Any]
    fingerprint: Mapping[str, Any]
    num_inference_steps: int
    model: Mapping[str, Any]
    evidence: Mapping[str, Any]
    environment: Mapping[str, Any]
    calibration: tuple[str, ...]
    held_out: tuple[str, ...]
    cost: CostTable
    trials: int = 0
    failed: tuple[tuple[str, str], ...] = field(default=())
    objective: Sequence[Mapping[str, Any]] = field(default=())
    searched: Sequence[Mapping[str, Any]] = field(default=())

    @property
    def quality(self) -> Objective:
        """What the search improves."""
        return Objective.from_data(self.objective) if self.objective else Objective()

    @property
    def searched_budgets(self) -> tuple[SearchedBudget, ...]:
        """The budgets that were searched."""
        return tuple(searched_budget(data) for data in self.searched)

    @property
    def baseline(self) -> Knobs:
        """The unaccelerated model."""
        return Knobs(self.num_inference_steps)

    @property
    def seed(self) -> int:
        """Seed of the first calibration prompt."""
        return int(self.job["seed"])

    @property
    def guards(self) -> tuple[Guard, ...]:
        """What a chosen plan must meet beside the budget."""
        return parse_guards(self.job.get("max_drop", ()), self.job.get("guards", ()))

    @property
    def held_out_seed(self) -> int:
        """Seed of the first held-out prompt: behind the calibration prompts' seeds."""
        return self.seed + len(self.calibration)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without passwords; the inverse of ``from_dict``."""
        data = {name: value for name, value in vars(self).items() if name != "cost"}
        # The prompts are left alone: an address in one is what was scored.
        data |= {name: without_passwords(data[name]) for name in ("job", "model", "evidence", "environment")}
        whole = {"record_version": RECORD_VERSION, **data, "cost": self.cost.as_dict()}
        plain: dict[str, Any] = json.loads(json.dumps(whole))
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], name: str = "study record") -> StudyRecord:
        """Rebuild a record from ``as_dict``'s data.

        Raises:
            StudyError: it is not a record of this version; ``name`` stands for it in the message.
        """
        remedy = "run postdiff calibrate on this study again"
        if not isinstance(data, Mapping) or data.get("record_version") != RECORD_VERSION:
            version = data.get("record_version") if isinstance(data, Mapping) else None
            raise StudyError(name, f"record version {version!r}; this postdiff reads {RECORD_VERSION}", remedy)
        fields = {key: value for key, value in data.items() if key != "record_version"}
        try:
            check_record(fields)
            fields["calibration"], fields["held_out"] = tuple(fields["calibration"]), tuple(fields["held_out"])
            fields["failed"] = tuple((str(knobs), str(reason)) for knobs, reason in fields["failed"])
            fields["cost"] = read_data(fields["cost"])
            return cls(**fields)
        except (LookupError, TypeError, ValueError, AttributeError, PostdiffError) as error:
            raise StudyError(name, f"it is damaged ({type(error).__name__}: {error})", remedy) from error


@dataclass(frozen=True)
class Study:
    """A study's folder read back: its record and all its scores."""

    folder: Path
    record: StudyRecord

    @classmethod
    def load(cls, folder: str | Path) -> Study:
        """Read a study's folder.

        Raises:
            StudyError: there is no study, or it is damaged.
        """
        folder = Path(folder)
        path = folder / RECORD
        try:
            data = parse_json(path.read_bytes())
        except OSError as error:
            raise StudyError(
                f"study {folder}", f"it has no readable {RECORD} ({reason_of(error)})", "make it: postdiff calibrate"
            ) from error
        except ValueError as error:
            remedy = "run postdiff calibrate on this study again"
            raise StudyError(f"study {path}", f"it is not JSON ({reason_of(error)})", remedy) from error
        return cls(folder, StudyRecord.from_dict(data, str(path)))

    def save(self) -> None:
        """Write the record atomically."""
        write_atomically(self.folder / RECORD, json.dumps(self.record.as_dict(), ensure_ascii=False) + "\n")

    def scored(self, cost: CostTable | None = None) -> tuple[Scored, Scored]:
        """All scores on the calibration prompts and on the held-out prompts, priced by ``cost`` (own by default)."""
        table = cost or self.record.cost
        return (
            self._read(SCORES, len(self.record.calibration), table),
            self._read(HELD_OUT, len(self.record.held_out), table),
        )

    def _read(self, name: str, num_prompts: int, table: CostTable) -> Scored:
        baseline = self.record.baseline
        book = ScoreBook(_NoPictures(), num_prompts, baseline, FileStore(self.folder / name))

        def scores(knobs: Knobs) -> PlanScores:
            return book.plan_scores(knobs, table.price(compile_plan(knobs)))

        return Scored(scores(baseline), [scores(knobs) for knobs in book.plans.values()], len(book.set_aside))

    def require_scores(self) -> Study:
        """The study itself, once it is known to hold scores.

        Raises:
            StudyError: the unaccelerated model, which is scored first, has no scores yet.
        """
        calibration, _ = self.scored()
        if calibration.baseline.n < 2:
            raise StudyError(
                f"study {self.folder}", "it holds no scores yet", "run its postdiff calibrate command (again)"
            )
        return self

    def evidence(self, cost: CostTable | None = None, deltas: Sequence[str] = ()) -> Evidence:
        """All that answers rest on.

        Args:
            cost: prices of another machine; this study's own by default.
            deltas: ``--delta`` options that stand in for the study's own.

        Raises:
            UsageError: a δ is nonsense.
        """
        calibration, held_out = self.scored(cost)
        objective = self.record.quality
        objective = objective.with_deltas(parse_per_metric("--delta", deltas, objective.metrics))
        searched = self.record.searched_budgets
        if cost is not None:  # seconds of another machine: what was searched here was searched in other terms
            searched = tuple(budget for budget in searched if budget.limit.kind == "macs")
        return Evidence(calibration, held_out, searched, objective)

    def conclude(self, budget: Budget, cost: CostTable | None = None, deltas: Sequence[str] = ()) -> Profile:
        """The profile of the best scored plan within a budget; no image is made.

        Where plans within the budget have held-out scores, the winner is chosen and stated on those; else on the
        calibration prompts, and the profile says so.

        Args:
            budget: any budget.
            cost: prices of another machine; this study's own by default.
            deltas: ``--delta`` options that stand in for the study's own.

        Raises:
            BudgetError: the budget needs seconds and none were measured, or no scored plan is within it.
            CheckError: no scored plan within it meets the record's guards.
        """
        record, table = self.record, cost or self.record.cost
        limit = budget.resolve(table.price(compile_plan(record.baseline)))
        evidence = self.evidence(cost, deltas)
        images = sum(plan.n for plan in (*evidence.calibration.plans, *evidence.held_out.plans))
        facts = self._facts(images, evidence.judged(limit) is not None, table)
        return conclude(budget, limit, evidence, evidence.rows_beside(limit), facts, record.guards)

    def _facts(self, images: int, confirmed: bool, table: CostTable) -> Facts:
        record = self.record
        environment = {**record.environment, "latency_device": None}
        batch_size = int(record.settings["batch_size"])
        if table.latency is not None:
            environment["latency_device"] = str(table.latency.environment.get("device_name", "unknown"))
            batch_size = table.latency.batch_size
        return Facts(
            model=record.model,
            evidence={
                **record.evidence,
                "num_held_out": len(record.held_out) if confirmed else 0,
                "trials": record.trials,
                "images": images,
            },
            environment=environment,
            notes=(*_table_notes(record, table), *(f"Failed: {knobs}: {reason}" for knobs, reason in record.failed)),
            batch_size=batch_size,
            noise=str(record.settings["noise"]),
            latent_multiple=int(record.settings["latent_multiple"]),
        )

    def with_search(
        self, trials: int, failed: Sequence[tuple[str, str]], searched: Sequence[SearchedBudget] = ()
    ) -> Study:
        """The same study after its search, saved; budgets searched earlier are kept beside the new ones."""
        new = [searched_data(budget) for budget in searched]
        limits = [data["limit"][:3] for data in new]
        kept = [data for data in self.record.searched if list(data["limit"][:3]) not in limits]
        record = replace(self.record, trials=trials, failed=tuple(failed), searched=(*kept, *new))
        study = replace(self, record=record)
        study.save()
        return study

    def with_objective(self, objective: Objective) -> Study:
        """The same study with what its search improves; nothing is saved yet."""
        return replace(self, record=replace(self.record, objective=objective.as_data()))

    def with_earlier_searches(self) -> Study:
        """The same study with the budgets that an earlier call on this folder searched; nothing is saved yet."""
        if not os.path.lexists(self.folder / RECORD):
            return self
        earlier = Study.load(self.folder).record
        if dict(earlier.fingerprint) != json.loads(json.dumps(dict(self.record.fingerprint))):
            return self
        return replace(self, record=replace(self.record, searched=earlier.searched))

    def without(self, broken: Mapping[str, tuple[str, str]]) -> Study:
        """The same study without finalists whose images are broken, saved.

        Args:
            broken: (knobs in words, reason) by content hash.
        """
        if not broken:
            return self
        searched = [
            {**data, "finalists": [plan for plan in data["finalists"] if plan not in broken]}
            for data in self.record.searched
        ]
        failed = tuple(dict.fromkeys((*self.record.failed, *broken.values())))
        study = replace(self, record=replace(self.record, searched=searched, failed=failed))
        study.save()
        return study


class _NoPictures:
    """An evaluator for reading scores only."""

    def scores(self, knobs: Knobs, indices: Sequence[int]) -> list[float]:
        raise AssertionError("a study that is read back makes no picture")


def _table_notes(record: StudyRecord, table: CostTable) -> tuple[str, ...]:
    """What a reader must know of another machine's seconds."""
    if table is record.cost or table.latency is None:
        return ()
    facts = table.latency.environment
    notes = [f"Seconds were measured on {facts.get('device_name', 'another machine')}, scores were not."]
    if facts.get("dtype", record.job.get("dtype")) != record.job.get("dtype"):
        notes.append(f"The seconds are of {facts['dtype']}, the scores of {record.job.get('dtype')}.")
    return tuple(notes)
