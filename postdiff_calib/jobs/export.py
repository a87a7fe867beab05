"""A study's scores → profiles for other budgets and machines, and scripts that need no profile; no image is made.

Quality does not depend on hardware: with the latency table of another machine the same scores give the profile that is
best there. A budget near which few plans were tried, or whose best plans were never confirmed, is said in the profile's
``evidence.notes``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from postdiff_calib.cost.budget import Budget, parse_budget, parse_budgets
from postdiff_calib.cost.store import read_table
from postdiff_calib.cost.table import CostTable
from postdiff_calib.errors import ModelError, OutputError, StudyError, UsageError
from postdiff_calib.files import refuse_output, write_atomically
from postdiff_calib.jobs.overwrite import refuse_overwrite, remember
from postdiff_calib.jobs.scripts import diffusers_script, python_script
from postdiff_calib.plan import compile_plan
from postdiff_calib.profile import Profile
from postdiff_calib.study.record import Study


@dataclass(frozen=True)
class ExportJob:
    """What ``postdiff export`` was asked for.

    Args:
        study: the study's folder.
        budget: one budget; the study's own where neither is given.
        budgets: several with commas between them; each gets a file of its own.
        out: the file, whose ending is the format's or none; by default ``profile`` with the format's ending.
        format: a key of ``FORMATS``.
        latency_table: a file that ``postdiff cost --measure --out`` wrote on another machine.
        delta: differences that are cared about, as ``--delta`` gives them; the study's own where empty.
        force: files that no export of this study wrote are replaced too.
    """

    study: Path
    budget: str | None = None
    budgets: str | None = None
    out: Path | None = None
    format: str = "yaml"
    latency_table: Path | None = None
    delta: tuple[str, ...] = ()
    force: bool = False


@dataclass(frozen=True)
class Exported:
    """One file that was written, and the profile that it states."""

    path: Path
    profile: Profile


def run_export(job: ExportJob) -> list[Exported]:
    """Write one file per budget; all are worked out before the first is written.

    Raises:
        PostdiffError: bad input, by one line.
    """
    if job.format not in FORMATS:
        raise UsageError(f"--format {job.format}", f"formats are {', '.join(FORMATS)}", "take yaml")
    if job.budget is not None and job.budgets is not None:
        raise UsageError("--budget with --budgets", "they say the same thing", "leave one out")
    study = Study.load(job.study).require_scores()
    several = parse_budgets(job.budgets) if job.budgets is not None else None
    budgets = several or [parse_budget(job.budget) if job.budget is not None else study.record.asked.budget]
    table = None if job.latency_table is None else _table_for(study, job.latency_table, budgets)
    endings, render = FORMATS[job.format]
    out = job.out or Path(f"profile{endings[0]}")
    paths = [out] if several is None else [_path_for(out, budget, endings[0]) for budget in budgets]
    if len(set(paths)) < len(paths):
        names = ", ".join(path.name for path in paths)
        raise OutputError(f"outputs {names}", "two budgets share a name", "export them one by one")
    inputs = [job.latency_table] if job.latency_table is not None else []
    for path in (out, *paths):
        refuse_output(path, inputs=inputs, study=job.study)
    _check_ending(out, job.format)
    evidence = study.evidence(table, job.delta)
    profiles = [study.conclude(budget, table, job.delta, evidence) for budget in budgets]
    texts = {path: render(profile) for path, profile in zip(paths, profiles, strict=True)}
    if not job.force:
        refuse_overwrite(texts, job.study)
    written = [write_atomically(path, text) for path, text in texts.items()]
    remember(texts, job.study)
    return [Exported(path, profile) for path, profile in zip(written, profiles, strict=True)]


def _check_ending(out: Path, file_format: str) -> None:
    """Refuse a name that would say another format than the file has; one without an ending says none.

    Raises:
        OutputError: its ending is not the format's.
    """
    endings, _ = FORMATS[file_format]
    if (given := out.suffix.lower()) and given not in endings:
        others = [name for name, (own, _) in FORMATS.items() if given in own]
        rule = f"a file of --format {file_format} ends in {' or '.join(endings)}"
        remedy = f"name one (--out), or take --format {' or '.join(others)}" if others else "name one (--out)"
        raise OutputError(f"output {out}", rule, remedy)


def _path_for(out: Path, budget: Budget, ending: str) -> Path:
    """``out`` with the budget in its name, e.g. ``p-0.8s.yaml``, ``p-60pct.yaml``."""
    name = re.sub(r"[^\w.]+", "-", budget.text.replace("%", "pct"), flags=re.ASCII).strip("-")
    return out.with_name(f"{out.stem}-{name}{out.suffix or ending}")


def _table_for(study: Study, path: Path, budgets: list[Budget]) -> CostTable:
    """Another machine's latency table, once it is known to be of the study's model at its size.

    Raises:
        ModelError: it cannot be read, or is of another model, size or network.
        StudyError: it holds no seconds, and a budget is in seconds.
    """
    table, own = read_table(path), study.record.cost
    given, remedy = f"latency table {path}", "measure the study's own model: postdiff cost --measure --out"
    for what, theirs, ours in (
        ("model", table.model, own.model),
        ("image size", f"{table.height}×{table.width}", f"{own.height}×{own.width}"),
        ("latent size", f"{table.latent[0]}×{table.latent[1]}", f"{own.latent[0]}×{own.latent[1]}"),
        ("latent multiple", table.latent_multiple, own.latent_multiple),
    ):
        if theirs != ours:
            raise ModelError(given, f"its {what} is {theirs}, the study's {ours}", remedy)
    baseline = set(own.keys(compile_plan(study.record.baseline)))
    for key in sorted(baseline | (own.macs.keys() & table.macs.keys()), key=lambda key: (key not in baseline, key)):
        found, counted = table.macs.get(key), own.step_macs(key)
        if found != counted:
            told = "not counted" if found is None else f"{found.full:,} MACs"
            raise ModelError(given, f"a {key.describe()} step is {told}, the study's {counted.full:,}", remedy)
    if table.latency is None and any(budget.kind == "seconds" for budget in budgets):
        raise StudyError(given, "it holds no seconds", "measure them: postdiff cost --measure --out")
    # The same network: what the study counted need not be counted again.
    table.macs = {**own.macs, **table.macs}
    return table


def as_json(profile: Profile) -> str:
    """A profile as JSON; ``load_profile`` reads it too."""
    return json.dumps(profile.to_dict(), indent=2, ensure_ascii=False) + "\n"


#: Formats by name: the endings of their files, the usual one first, and what writes them.
FORMATS: dict[str, tuple[tuple[str, ...], Callable[[Profile], str]]] = {
    "yaml": ((".yaml", ".yml"), Profile.to_yaml),
    "json": ((".json",), as_json),
    "python": ((".py",), python_script),
    "diffusers": ((".py",), diffusers_script),
}
