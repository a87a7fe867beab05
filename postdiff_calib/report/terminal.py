"""Results on a terminal: the calibrated plan, its cost and loss, the arms, and the answer; or the same as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from postdiff_calib.profile import ArmResult, Comparison, Profile

if TYPE_CHECKING:
    from postdiff_calib.deploy import GenerateResult

ARM_NAMES = {"fewer": "fewer steps", "cheaper": "cheaper steps", "joint": "both"}


def signed(value: float) -> str:
    """A score difference with its sign, e.g. ``−0.12``."""
    return f"{value:+.2f}".replace("-", "−")


def interval(difference: Comparison) -> str:
    """Mean and 95 % interval, e.g. ``−0.12 [−0.30, +0.06]``."""
    return f"{signed(difference.mean)} [{signed(difference.low)}, {signed(difference.high)}]"


def macs(value: float) -> str:
    """MACs in a readable unit."""
    for unit, size in (("TMACs", 1e12), ("GMACs", 1e9), ("MMACs", 1e6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} MACs"


def seconds(value: float | None) -> str:
    """Seconds in a readable unit, or a dash where nothing was timed."""
    if value is None:
        return "–"
    return f"{value * 1e3:.0f} ms" if value < 1 else f"{value:.2f} s"


def print_json(data: Any) -> None:
    """Data on standard output, for scripts."""
    print(json.dumps(data, indent=2, ensure_ascii=False))


def wide_console() -> Console:
    """Standard output: as wide as the terminal, or wide enough for the tables where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=116)


def print_calibration(profile: Profile, path: Path, *, as_json: bool, console: Console | None = None) -> None:
    """The outcome of a calibration: what to run, what it costs, what it loses, and the answer."""
    if as_json:
        print_json({"profile": str(path), **profile.to_dict()})
        return
    console = console or wide_console()
    e, cost, base = profile.expected, profile.expected.cost, profile.expected.baseline_cost
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    limit = macs(profile.budget.limit) if profile.budget.kind == "macs" else seconds(profile.budget.limit)
    table.add_row(
        "model", f"{profile.model.id} {profile.model.height}×{profile.model.width}, {profile.model.scheduler}"
    )
    table.add_row("budget", f"{profile.budget.text}: at most {limit} per image")
    table.add_row("plan", profile.knobs.describe())
    saving = f"{macs(cost.macs)} of {macs(base.macs)} ({e.relative_macs:.0%})"
    if cost.seconds is not None:
        saving += f", {seconds(cost.seconds)} of {seconds(base.seconds)}"
    table.add_row("cost per image", saving)
    table.add_row("score", f"{e.score:.2f}, unaccelerated {e.baseline_score:.2f} ({e.metric})")
    prompts = f"{e.difference.num_prompts} {'held-out' if e.confirmed else 'calibration'} prompts"
    table.add_row("difference", f"{interval(e.difference)} over {prompts}: {verdict(profile)}")
    table.add_row(
        "resolution", f"differences under {profile.evidence.smallest_difference:.2f} cannot be told from zero"
    )
    console.print(table, highlight=False)
    console.print()
    console.print(arms_table(profile), highlight=False)
    row = own_row(profile)
    if row is not None:
        console.print(f"\n[bold]Fewer or cheaper?[/bold] {row.answer}", highlight=False)
    if profile.tradeoff.crossover:
        console.print(profile.tradeoff.crossover, highlight=False)
    for note in profile.model.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    console.print(f"\nprofile written to {path}", highlight=False, markup=False)


def verdict(profile: Profile) -> str:
    """The verdict in words."""
    e = profile.expected
    if e.verdict == "equivalent":
        return f"equivalent within {e.delta:.2f}"
    if e.verdict == "undecided" and e.prompts_to_decide:
        return f"undecided; about {e.prompts_to_decide} prompts would decide"
    return e.verdict


def own_row(profile: Profile) -> Any:
    """The trade-off row of the profile's own budget, or ``None``."""
    return next((r for r in profile.tradeoff.rows if abs(r.share - profile.budget.share) < 1e-9), None)


def arms_table(profile: Profile) -> Table:
    """The three families at every budget of the ladder."""
    table = Table(
        title="best of each family (difference to the unaccelerated model, 95 % interval)", title_justify="left"
    )
    for name in ("budget", "family", "plan", "MACs", "time", "difference"):
        table.add_column(name, justify="right" if name in ("MACs", "time", "difference") else "left")
    for row in profile.tradeoff.rows:
        first = True
        for arm, label in ARM_NAMES.items():
            result: ArmResult | None = getattr(row, arm)
            if result is None:
                continue
            won = " ←" if row.winner == arm else ""
            mark = "" if result.confirmed else " *"
            table.add_row(
                f"{row.share:.0%}" if first else "",
                label + won,
                result.knobs,
                f"{result.relative_macs:.0%}",
                seconds(result.seconds),
                interval(result.difference) + mark,
            )
            first = False
        table.add_section()
    if any(r and not r.confirmed for row in profile.tradeoff.rows for r in (row.fewer, row.cheaper, row.joint)):
        table.caption = "* on calibration prompts only; the others are confirmed on held-out prompts"
        table.caption_justify = "left"
    return table


def print_generated(result: GenerateResult, *, as_json: bool, console: Console | None = None) -> None:
    """What was generated, where it is, and how long it took."""
    if as_json:
        print_json(result.as_dict())
        return
    console = console or Console()
    for image in result.images:
        console.print(f"{image.path}  {image.prompt}", highlight=False, markup=False, soft_wrap=True)
        if image.pair:
            console.print(f"{image.pair}  baseline | {result.knobs}", highlight=False, markup=False, soft_wrap=True)
    line = f"{result.knobs}: {seconds(result.seconds_per_image)} per image"
    if result.baseline_seconds_per_image is not None:
        line += f", unaccelerated {seconds(result.baseline_seconds_per_image)}"
    console.print(line, highlight=False, markup=False)
    for note in result.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
