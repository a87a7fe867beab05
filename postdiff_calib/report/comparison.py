"""Comparisons and exports on a terminal: a study's arms at every budget, two profiles side by side, written files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from postdiff_calib.profile import ArmResult, Profile, TradeoffRow
from postdiff_calib.report.terminal import (
    ARM_NAMES,
    interval,
    print_json,
    profile_facts,
    seconds,
    signed,
    verdict,
    wide_console,
)

if TYPE_CHECKING:
    from postdiff_calib.arms import Tradeoff
    from postdiff_calib.export import Exported


def print_tradeoff(
    tradeoff: Tradeoff, plot: Path | None = None, *, as_json: bool, console: Console | None = None
) -> None:
    """The answer, the three arms at every budget, and where the better one changes."""
    if as_json:
        print_json(tradeoff.as_dict())
        return
    console = console or wide_console()
    console.print(f"[bold]Fewer or cheaper?[/bold] {escape(tradeoff.answer)}", highlight=False)
    if tradeoff.crossover:
        low, high = tradeoff.crossover
        console.print(f"The better of the two changes between {low:.0%} and {high:.0%}.", highlight=False)
    console.print()
    console.print(tradeoff_table(tradeoff), highlight=False)
    if plot is not None:
        console.print(f"drawn into {plot}", highlight=False, markup=False)


def tradeoff_table(tradeoff: Tradeoff) -> Table:
    """A line per budget and arm; the paper's comparison and its winner stand with each budget."""
    table = Table(
        title=f"{escape(tradeoff.model)} {tradeoff.height}×{tradeoff.width}: best plan of each kind within a budget; "
        f"scores by {escape(tradeoff.scorer)}, with 95 % intervals",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in ("budget", "kind", "plan", tradeoff.unit, "against unaccelerated", "cheaper − fewer", "better"):
        table.add_column(name, justify="right" if name in (tradeoff.unit, "against unaccelerated") else "left")
    marked = False
    for row in tradeoff.rows:
        results = {arm: getattr(row, arm) for arm in ARM_NAMES if getattr(row, arm) is not None}
        compared = [_compared(row), *[("", "")] * len(ARM_NAMES)]
        for i, (arm, result) in enumerate(results.items()):
            mark = "" if result.confirmed else " *"
            marked = marked or not result.confirmed
            table.add_row(
                f"{row.share:.0%}" if i == 0 else "",
                ARM_NAMES[arm].removesuffix(" steps"),
                escape(result.knobs),
                _cost(result, tradeoff),
                (interval(result.difference) if result.difference.low < result.difference.high else "itself") + mark,
                *compared[i],
            )
        if not results:
            table.add_row(f"{row.share:.0%}", "none", "no scored plan fits", "", "", "", "")
        table.add_section()
    if marked:
        held_out = f"; the others are of {tradeoff.num_held_out} held-out prompts" if _any_confirmed(tradeoff) else ""
        table.caption = f"* on the {tradeoff.num_prompts} calibration prompts, where plans were chosen{held_out}"
    return table


def _any_confirmed(tradeoff: Tradeoff) -> bool:
    return any(r is not None and r.confirmed for row in tradeoff.rows for r in (row.fewer, row.cheaper, row.joint))


def _compared(row: TradeoffRow) -> tuple[str, str]:
    """Cheaper minus fewer steps, and who wins, in words."""
    difference = "" if row.cheaper_minus_fewer is None else interval(row.cheaper_minus_fewer)
    if row.cheaper_minus_fewer is None and row.winner in ARM_NAMES:
        return difference, f"only {row.winner}"
    return difference, "neither" if row.winner in ("tie", "undecided") else row.winner


def _cost(result: ArmResult, tradeoff: Tradeoff) -> str:
    if tradeoff.kind == "seconds" and result.seconds is not None and tradeoff.baseline.seconds:
        return f"{seconds(result.seconds)} ({result.seconds / tradeoff.baseline.seconds:.0%})"
    return f"{result.relative_macs:.0%}"


def profile_warnings(first: Profile, second: Profile) -> list[str]:
    """Why the scores of two profiles cannot be compared; empty when they can."""
    warnings = []
    for what, one, other in (
        ("models", first.model.fingerprint, second.model.fingerprint),
        ("picture sizes", (first.model.height, first.model.width), (second.model.height, second.model.width)),
        ("prompt sets", first.evidence.prompt_set_sha256, second.evidence.prompt_set_sha256),
        ("scoring models", first.evidence.scorer_sha256, second.evidence.scorer_sha256),
        ("seeds", first.evidence.seed, second.evidence.seed),
        ("prompts (held-out and calibration)", first.expected.confirmed, second.expected.confirmed),
    ):
        if one != other:
            warnings.append(f"the profiles are of different {what}: their scores cannot be compared")
    return warnings


def compared_facts(first: Profile, second: Profile) -> dict[str, tuple[str, str]]:
    """What a person wants to know of two profiles, by name, in words: (first, second)."""

    def facts(profile: Profile) -> dict[str, str]:
        e, knobs = profile.expected, profile.settings.model_dump()
        known = profile_facts(profile)
        relative = "–" if e.relative_seconds is None else f"{e.relative_seconds:.0%}"
        return {
            "model": known["model"],
            "weights": profile.model.fingerprint,
            "prompts": f"{profile.evidence.prompt_set} {profile.evidence.prompt_set_sha256[:12]}",
            "budget": known["budget"],
            **{f"  {name}": str(value) for name, value in knobs.items()},
            "cost per image": known["cost per image"],
            "share of MACs": f"{e.relative_macs:.0%}",
            "share of time": relative,
            "score": f"{e.score:.2f}",
            "unaccelerated": f"{e.baseline_score:.2f}",
            "difference": f"{interval(e.difference)}, {e.difference.num_prompts} prompts",
            "verdict": verdict(profile),
        }

    one, other = facts(first), facts(second)
    return {name: (one[name], other[name]) for name in one}


def print_profiles(
    paths: Sequence[Path], first: Profile, second: Profile, *, as_json: bool, console: Console | None = None
) -> None:
    """Two profiles side by side, what differs, and whether their scores can be compared."""
    facts, warnings = compared_facts(first, second), profile_warnings(first, second)
    if as_json:
        print_json(
            {
                "profiles": [
                    {"path": str(path), "profile": profile.to_dict()}
                    for path, profile in zip(paths, (first, second), strict=True)
                ],
                "differs": [name.strip() for name, (one, other) in facts.items() if one != other],
                "warnings": warnings,
            }
        )
        return
    console = console or wide_console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", *(escape(str(path)) for path in paths), "differs"):
        table.add_column(name, overflow="fold")
    for name, (one, other) in facts.items():
        table.add_row(name, Text(one), Text(other), "≠" if one != other else "")
    console.print(table, highlight=False)
    if not warnings:
        gap = second.expected.difference.mean - first.expected.difference.mean
        console.print(
            f"Second minus first: {signed(gap)} points, {second.expected.relative_macs:.0%} against "
            f"{first.expected.relative_macs:.0%} of the unaccelerated MACs.",
            highlight=False,
        )
    for warning in warnings:
        console.print(f"warning: {warning}", highlight=False, markup=False)


def print_exported(files: Sequence[Exported], *, as_json: bool, console: Console | None = None) -> None:
    """What was written, what it promises, and what is thin about it."""
    if as_json:
        print_json([{"path": str(file.path), "profile": file.profile.to_dict()} for file in files])
        return
    console = console or wide_console()
    for file in files:
        known, notes = profile_facts(file.profile), file.profile.evidence.notes
        facts = Table(box=None, show_header=False, pad_edge=False)
        facts.add_column(style="bold")
        facts.add_column(overflow="fold")
        for name in ("budget", "plan", "cost per image", "difference"):
            facts.add_row(name, Text(known[name]))
        console.print(facts, highlight=False)
        for note in notes:
            console.print(f"note: {note}", highlight=False, markup=False)
        console.print(f"written to {file.path}\n", highlight=False, markup=False)
    if any(not file.profile.expected.confirmed for file in files):
        console.print(
            "No image was made. To search and confirm there, run the study's calibrate command with that --budget.",
            highlight=False,
        )
