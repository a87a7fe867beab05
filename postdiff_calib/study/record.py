"""A study's record: what was asked, on which model, prompts and prices, kept beside its scores.

``study.json`` in the study's folder holds it; with the score files it is all that is needed to write a profile for any
budget, to compare, verify and report, or to join the work from another host: no model is loaded, no image is made.

Files of a study: ``study.json`` (this record), ``scores.jsonl`` and ``held_out.jsonl`` (per-prompt scores on the
calibration and on the held-out prompts), ``study.db`` (Optuna's trials).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from postdiff_calib.cost.budget import Budget, Limit
from postdiff_calib.cost.check import read_data
from postdiff_calib.cost.table import CostTable
from postdiff_calib.errors import PostdiffError, StudyError, reason_of
from postdiff_calib.files import parse_json, without_passwords, write_atomically
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.profile import Profile
from postdiff_calib.profile.sections import EnvironmentSection, EvidenceSection, ModelSection
from postdiff_calib.scores.book import ScoreBook
from postdiff_calib.scores.memory import BatchSize
from postdiff_calib.scores.names import HELD_OUT, SCORES
from postdiff_calib.scores.objective import Objective, parse_per_metric
from postdiff_calib.scores.select import PlanScores
from postdiff_calib.scores.store import FileStore
from postdiff_calib.search.restrict import allowed
from postdiff_calib.study.asked import Asked
from postdiff_calib.study.check import check_record
from postdiff_calib.study.conclude import Facts, conclude
from postdiff_calib.study.earlier_record import current
from postdiff_calib.study.evidence import Evidence, NoImages, Scored
from postdiff_calib.study.searched import SearchedBudget, searched_budget, searched_data
from postdiff_calib.study.seconds import Seconds, TimedCalls, environment_of_seconds, notes_of_seconds

RECORD = "study.json"
RECORD_VERSION = 5


@dataclass(frozen=True)
class StudyRecord:
    """What a study is about.

    Args:
        asked: what ``calibrate`` was asked for.
        settings: how images are made, whatever the plan.
        fingerprint: what scores depend on.
        num_inference_steps: T of the baseline.
        model, evidence, environment: the profile's sections as they are before the search: without images, trials,
            notes and the hardware of seconds.
        calibration, held_out: the prompts; prompt i has seed ``seed + i``, held-out ones counted on.
        held_out_categories: what kind of prompt each held-out one is; empty where the prompt set does not say.
        cost: prices of plans on the machine that calibrated.
        trials: finished trials of the search.
        failed: (knobs, reason) of plans whose images were broken.
        objective: the metrics with their spreads, weights and δ; the score alone until spreads are measured.
        searched: the budgets that were searched; those of earlier calls are kept.
        fitting: how many images fitted into memory at a time, where that was fewer than asked for.
        whole_calls: calls of the plan that the search led to, timed as they are; None where none were.
    """

    asked: Asked
    settings: GenerationSettings
    fingerprint: Mapping[str, Any]
    num_inference_steps: int
    model: ModelSection
    evidence: EvidenceSection
    environment: EnvironmentSection
    calibration: tuple[str, ...]
    held_out: tuple[str, ...]
    cost: CostTable
    trials: int = 0
    failed: tuple[tuple[str, str], ...] = ()
    objective: Objective = field(default_factory=Objective)
    searched: tuple[SearchedBudget, ...] = ()
    held_out_categories: tuple[str, ...] = ()
    fitting: int | None = None
    whole_calls: TimedCalls | None = None

    @property
    def baseline(self) -> Knobs:
        """The baseline."""
        return Knobs(self.num_inference_steps)

    @property
    def model_to_load(self) -> str:
        """What ``load_pipeline`` takes beside the deployment's settings: the model at the commit that was loaded."""
        return self.model.to_load(self.asked.model, revision_apart=self.asked.deployment.revision is not None)

    @property
    def seed(self) -> int:
        """Seed of the first calibration prompt."""
        return self.asked.seed

    def resolve(self, budget: Budget | None = None, cost: CostTable | None = None) -> Limit:
        """A budget in absolute terms.

        Args:
            budget: any budget; the study's own by default.
            cost: prices of another machine; this study's own by default.

        Raises:
            BudgetError: the budget needs seconds and none were measured.
        """
        return (budget or self.asked.budget).resolve((cost or self.cost).price(compile_plan(self.baseline)))

    @property
    def held_out_seed(self) -> int:
        """Seed of the first held-out prompt: behind the calibration prompts' seeds."""
        return self.seed + len(self.calibration)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without passwords; the inverse of ``from_dict``."""
        about = {
            "asked": self.asked.as_dict(),
            "model": self.model.model_dump(mode="json"),
            "evidence": self.evidence.model_dump(mode="json"),
            "environment": self.environment.model_dump(mode="json"),
        }
        whole = {
            "record_version": RECORD_VERSION,
            # The prompts are left alone: an address in one is what was scored.
            **{name: without_passwords(part) for name, part in about.items()},
            "settings": self.settings.as_dict(),
            "fingerprint": dict(self.fingerprint),
            "num_inference_steps": self.num_inference_steps,
            "calibration": self.calibration,
            "held_out": self.held_out,
            "held_out_categories": self.held_out_categories,
            "trials": self.trials,
            "failed": self.failed,
            "objective": self.objective.as_data(),
            "searched": [searched_data(budget) for budget in self.searched],
            "cost": self.cost.as_dict(),
            **({"fitting": self.fitting} if self.fitting is not None else {}),
            **({"whole_calls": self.whole_calls.as_dict()} if self.whole_calls is not None else {}),
        }
        plain: dict[str, Any] = json.loads(json.dumps(whole))
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], name: str = "study record") -> StudyRecord:
        """Rebuild a record from ``as_dict``'s data.

        Raises:
            StudyError: it is not a record of this version; ``name`` stands for it in the message.
        """
        remedy = "run postdiff calibrate on this study again"
        data = current(data)
        if not isinstance(data, Mapping) or data.get("record_version") != RECORD_VERSION:
            version = data.get("record_version") if isinstance(data, Mapping) else None
            anew = "move it away, then postdiff calibrate on this folder writes it anew from the scores"
            raise StudyError(name, f"record version {version!r}; this postdiff reads {RECORD_VERSION}", anew)
        fields = {key: value for key, value in data.items() if key != "record_version"}
        try:
            check_record(fields)
            return cls(
                asked=Asked.from_dict(fields["asked"]),
                settings=GenerationSettings(**fields["settings"]),
                fingerprint=fields["fingerprint"],
                num_inference_steps=fields["num_inference_steps"],
                model=ModelSection.model_validate(fields["model"]),
                evidence=EvidenceSection.model_validate(fields["evidence"]),
                environment=EnvironmentSection.model_validate(fields["environment"]),
                calibration=tuple(fields["calibration"]),
                held_out=tuple(fields["held_out"]),
                cost=read_data(fields["cost"]),
                trials=fields["trials"],
                failed=tuple((knobs, reason) for knobs, reason in fields["failed"]),
                objective=Objective.from_data(fields["objective"]),
                searched=tuple(searched_budget(part) for part in fields["searched"]),
                held_out_categories=tuple(fields.get("held_out_categories", ())),
                fitting=fields.get("fitting"),
                whole_calls=TimedCalls.from_dict(fields["whole_calls"]) if fields.get("whole_calls") else None,
            )
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
        book = ScoreBook(NoImages(), num_prompts, baseline, FileStore(self.folder / name))

        def scores(knobs: Knobs) -> PlanScores:
            return book.plan_scores(knobs, table.price(compile_plan(knobs)))

        # Earlier searches on this folder may have been restricted otherwise.
        plans = [k for k in book.plans.values() if k == baseline or allowed(self.record.asked.restrictions, k)]
        return Scored(scores(baseline), [scores(knobs) for knobs in plans], len(book.set_aside))

    def require_scores(self) -> Study:
        """The study itself, once it is known to hold scores.

        Raises:
            StudyError: the baseline, which is scored first, has no scores yet.
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
        objective = self.record.objective
        objective = objective.with_deltas(parse_per_metric("--delta", deltas, objective.metrics))
        searched = self.record.searched
        if cost is not None:  # seconds of another machine: what was searched here was searched in other terms
            searched = tuple(budget for budget in searched if budget.limit.kind == "macs")
        return Evidence(calibration, held_out, searched, objective, self.record.cost.guides)

    def conclude(
        self,
        budget: Budget | None = None,
        cost: CostTable | None = None,
        deltas: Sequence[str] = (),
        evidence: Evidence | None = None,
    ) -> Profile:
        """The profile of the best scored plan within a budget; no image is made.

        Where plans within the budget have held-out scores, the winner is chosen and stated on those; else on the
        calibration prompts, and the profile says so.

        Args:
            budget: any budget; the study's own by default.
            cost: prices of another machine; this study's own by default.
            deltas: ``--delta`` options that stand in for the study's own.
            evidence: of these prices and deltas, where it is at hand.

        Raises:
            BudgetError: the budget needs seconds and none were measured, or no scored plan is within it.
            CheckError: no scored plan within it meets the record's guards.
        """
        record, table = self.record, cost or self.record.cost
        limit = record.resolve(budget, cost)
        evidence = evidence or self.evidence(cost, deltas)
        images = sum(plan.n for plan in (*evidence.calibration.plans, *evidence.held_out.plans))
        facts = self._facts(images, evidence.judged(limit) is not None, table)
        return conclude(limit, evidence, evidence.rows_beside(limit), facts, record.asked.rails)

    def _facts(self, images: int, confirmed: bool, table: CostTable) -> Facts:
        record, latency = self.record, table.latency
        environment, settings = record.environment, record.settings
        if latency is not None:
            environment = environment_of_seconds(environment, latency)
            settings = replace(settings, batch_size=latency.batch_size)
        judged = len(record.held_out) if confirmed else 0
        evidence = record.evidence.model_copy(
            update={"num_held_out": judged, "trials": record.trials, "images": images}
        )
        own = record.cost.latency
        notes = notes_of_seconds(record.environment, record.model.dtype, own, latency)
        return Facts(
            record.model,
            evidence,
            environment,
            settings,
            categories=record.held_out_categories,
            notes=tuple(f"Failed: {knobs}: {reason}" for knobs, reason in record.failed),
            seconds=Seconds(latency, record.whole_calls if latency is own else None, notes),
        )

    def with_search(
        self, trials: int, failed: Sequence[tuple[str, str]], searched: Sequence[SearchedBudget] = ()
    ) -> Study:
        """The same study after its search, saved; budgets searched earlier are kept beside the new ones."""
        new = [_terms(budget.limit) for budget in searched]
        kept = [budget for budget in self.record.searched if _terms(budget.limit) not in new]
        record = replace(self.record, trials=trials, failed=tuple(failed), searched=(*kept, *searched))
        study = replace(self, record=record)
        study.save()
        return study

    def with_batch(self, batch: BatchSize) -> Study:
        """The same study with no more images at a time than turned out to fit; nothing is saved yet."""
        settings = batch.within(self.record.settings)
        return replace(self, record=replace(self.record, settings=settings, fitting=batch.size))

    def with_objective(self, objective: Objective) -> Study:
        """The same study with what its search improves; nothing is saved yet."""
        return replace(self, record=replace(self.record, objective=objective))

    def without(self, broken: Mapping[str, tuple[str, str]]) -> Study:
        """The same study without finalists whose images are broken, saved.

        Args:
            broken: (knobs as text, reason) by plan id.
        """
        if not broken:
            return self
        searched = tuple(
            replace(budget, finalists=tuple(plan for plan in budget.finalists if plan not in broken))
            for budget in self.record.searched
        )
        failed = tuple(dict.fromkeys((*self.record.failed, *broken.values())))
        study = replace(self, record=replace(self.record, searched=searched, failed=failed))
        study.save()
        return study


def _terms(limit: Limit) -> tuple[str, str, str, float]:
    """What makes two searched budgets one; the baseline may have been timed anew."""
    return *limit.terms, limit.value
