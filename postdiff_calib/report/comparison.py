"""Comparisons and exports on a terminal: a study's arms at every budget, two profiles side by side, written files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from postdiff_calib.profile import Profile
from postdiff_calib.report.console import print_line, print_table
from postdiff_calib.report.json_output import print_json
from postdiff_calib.report.kept import print_views, view
from postdiff_calib.report.terminal import ARM_COLUMNS, arms_table, metric_facts, profile_facts, wide_console
from postdiff_calib.report.wording import arm_results, result_text, results, shown, signed, verdict
from postdiff_calib.study.answers import crossover_text
from postdiff_calib.study.kept import KeptStudy

if TYPE_CHECKING:
    from postdiff_calib.jobs.export import Exported
    from postdiff_calib.study.arms import Tradeoff


def print_tradeoff(
    tradeoff: Tradeoff,
    plot: Path | None = None,
    kept: Sequence[KeptStudy] = (),
    *,
    as_json: bool,
    console: Console | None = None,
) -> None:
    """The baseline, the answer, the three arms at every budget, and the paper's studies there are."""
    views = [view(study) for study in kept]
    if as_json:
        studies = [{"path": str(study.path), "data": study.data} for study in kept]
        print_json("compare", {**tradeoff.as_dict(), "studies": studies})
        return
    console = console or wide_console()
    print_line(console, tradeoff.baseline_text)
    console.print(f"[bold]Step reduction or cheaper steps?[/bold] {escape(tradeoff.answer)}", highlight=False)
    if tradeoff.crossover:
        console.print(crossover_text(tradeoff.crossover), highlight=False, markup=False)
    console.print()
    print_table(console, tradeoff_table(tradeoff), plain=ARM_COLUMNS)
    if plot is not None:
        print_line(console, f"drawn into {plot}")
    print_views(views, console)


def tradeoff_table(tradeoff: Tradeoff) -> Table:
    """A line per budget and arm, with the winner under each budget."""
    # those whose baseline image was broken are not compared on
    found = [result.difference.num_prompts for row in tradeoff.rows for result in arm_results(row).values()]
    title = (
        f"{tradeoff.model} {tradeoff.height}×{tradeoff.width}: best plan found of each arm, difference to the baseline "
        f"on {max(found, default=tradeoff.num_held_out)} held-out prompts, 95 % interval; scores by {tradeoff.scorer}"
    )
    base = tradeoff.baseline.call if tradeoff.kind == "seconds" else None
    return arms_table(tradeoff.rows, tradeoff.times, title, base)


def profile_warnings(first: Profile, second: Profile) -> list[str]:
    """Why the scores of two profiles cannot be compared; empty when they can."""
    warnings = []
    for what, one, other in (
        ("models", first.model.fingerprint, second.model.fingerprint),
        ("image sizes", (first.model.height, first.model.width), (second.model.height, second.model.width)),
        ("baselines", *_baseline_calls(first, second)),
        ("prompt sets", first.evidence.prompt_set_sha256, second.evidence.prompt_set_sha256),
        ("scoring models", first.evidence.scorer_sha256, second.evidence.scorer_sha256),
        ("further scorers", _also(first), _also(second)),
        ("seeds", first.evidence.seed, second.evidence.seed),
        ("prompts (held-out and calibration)", first.expected.confirmed, second.expected.confirmed),
    ):
        if one != other:
            warnings.append(f"the profiles are of different {what}: their scores cannot be compared")
    return warnings


def _baseline_calls(first: Profile, second: Profile) -> list[tuple[Any, ...]]:
    """What the baselines' images depend on beside weights and size; T only where both profiles state it."""
    models = [profile.model for profile in (first, second)]
    known = all(model.num_inference_steps is not None for model in models)
    return [(known and m.num_inference_steps, m.scheduler, m.guidance_scale, m.negative_prompt) for m in models]


def _also(profile: Profile) -> dict[str, str]:
    """Fingerprints of the scorers that judged beside, by metric."""
    return {one.metric: one.scorer_sha256 for one in profile.evidence.also}


def compared_facts(first: Profile, second: Profile) -> dict[str, tuple[str, str]]:
    """What a person wants to know of two profiles, by name, as text: (first, second)."""

    def facts(profile: Profile) -> dict[str, str]:
        e, knobs = profile.expected, profile.settings.model_dump()
        known = profile_facts(profile)
        relative = "–" if profile.times.relative is None else f"{profile.times.relative:.0%}"
        return {
            "model": known["model"],
            "weights": profile.model.fingerprint,
            "baseline": profile.baseline_text.removeprefix("baseline: "),
            "prompts": f"{profile.evidence.prompt_set} {profile.evidence.prompt_set_sha256[:12]}",
            "budget": known["budget"],
            "plan": known["plan"],
            **{f"  {name}": str(value) for name, value in knobs.items()},
            "speed-up": known["speed-up"],
            "cost per image": known["cost per image"],
            "time per call": known.get("time per call", "–"),
            "share of MACs": f"{e.relative_macs:.0%}",
            "share of time": relative,
            **metrics(profile),
            "verdict": verdict(profile),
            "prompts judged on": f"{e.difference.num_prompts} {'held-out' if e.confirmed else 'calibration'}",
        }

    def metrics(profile: Profile) -> dict[str, str]:
        lines = {result.metric: result_text(result) for result in results(profile)}
        return {shown(name).label: lines.get(name, "–") for name in names}

    names = dict.fromkeys(result.metric for profile in (first, second) for result in results(profile))
    one, other = facts(first), facts(second)
    return {name: (one[name], other[name]) for name in one}


def print_profiles(
    paths: Sequence[Path], first: Profile, second: Profile, *, as_json: bool, console: Console | None = None
) -> None:
    """The baseline of both or of each, the profiles side by side, and whether their scores can be compared."""
    facts, warnings = compared_facts(first, second), profile_warnings(first, second)
    if as_json:
        print_json(
            "compare-profiles",
            {
                "profiles": [
                    {"path": str(path), "baseline": profile.baseline_text, "profile": profile.to_dict()}
                    for path, profile in zip(paths, (first, second), strict=True)
                ],
                "differs": [name.strip() for name, (one, other) in facts.items() if one != other],
                "warnings": warnings,
            },
        )
        return
    console = console or wide_console()
    if first.baseline_text == second.baseline_text:
        print_line(console, first.baseline_text)
    else:
        for path, profile in zip(paths, (first, second), strict=True):
            print_line(console, f"{path}: {profile.baseline_text}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", *(escape(str(path)) for path in paths), "differs"):
        table.add_column(name, overflow="fold", no_wrap=not name or name == "differs")
    for name, (one, other) in facts.items():
        table.add_row(name, Text(one), Text(other), "≠" if one != other else "")
    print_table(console, table, most=2.5)
    if not warnings:
        console.print(
            f"Second minus first: {_gaps(first, second)}; {second.expected.relative_macs:.0%} against "
            f"{first.expected.relative_macs:.0%} of the baseline's MACs.",
            highlight=False,
            markup=False,
        )
    for warning in warnings:
        console.print(f"warning: {warning}", highlight=False, markup=False)


def _gaps(first: Profile, second: Profile) -> str:
    """How much the second profile's differences to the baseline are above the first's, in each metric of both."""
    known = {result.metric: result.difference.mean for result in results(first)}
    return ", ".join(
        f"{shown(r.metric).label} {signed(r.difference.mean - known[r.metric], r.metric)}"
        for r in results(second)
        if r.metric in known
    )


def print_exported(files: Sequence[Exported], *, as_json: bool, console: Console | None = None) -> None:
    """The study's baseline, then what was written, what it promises, and what is thin about it.

    Args:
        files: of one study; at least one.
        as_json: plain data in the place of text.
        console: where the text goes.
    """
    baseline = files[0].profile.baseline_text
    if as_json:
        written = [{"path": str(file.path), "profile": file.profile.to_dict()} for file in files]
        print_json("export", {"baseline": baseline, "files": written})
        return
    console = console or wide_console()
    print_line(console, baseline)
    for file in files:
        known, notes = profile_facts(file.profile), (*file.profile.evidence.notes, *file.profile.times.notes)
        facts = Table(box=None, show_header=False, pad_edge=False)
        facts.add_column(style="bold")
        facts.add_column(overflow="fold")
        for name in ("budget", "plan", "speed-up", "cost per image", "time per call", *metric_facts(file.profile)):
            if name in known:
                facts.add_row(name, Text(known[name]))
        console.print(facts, highlight=False)
        for note in notes:
            console.print(f"note: {note}", highlight=False, markup=False)
        print_line(console, f"written to {file.path}\n")
    if any(not file.profile.expected.confirmed for file in files):
        console.print(
            "No image was made. To search there, run the study's own command with that --budget.",
            highlight=False,
        )
