"""Results on a terminal: the calibrated plan, its cost and loss, the arms, and the answer; or the same as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from postdiff_calib.budget import format_macs, format_seconds
from postdiff_calib.profile import ArmResult, Comparison, Profile

if TYPE_CHECKING:
    from postdiff_calib.deploy import GenerateResult
    from postdiff_calib.worker import WorkerResult

ARM_NAMES = {"fewer": "fewer steps", "cheaper": "cheaper steps", "joint": "both"}


def signed(value: float) -> str:
    """A score difference with its sign, e.g. ``−0.12``."""
    return f"{value:+.2f}".replace("-", "−")


def interval(difference: Comparison) -> str:
    """Mean and 95 % interval, e.g. ``−0.12 [−0.30, +0.06]``."""
    return f"{signed(difference.mean)} [{signed(difference.low)}, {signed(difference.high)}]"


def seconds(value: float | None) -> str:
    """Seconds in words, or a dash where nothing was timed."""
    return "–" if value is None else format_seconds(value)


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
    print_profile(profile, as_json=False, console=console)
    console.print(f"\nprofile written to {path}", highlight=False, markup=False)


def print_profile(profile: Profile, *, as_json: bool, console: Console | None = None) -> None:
    """A profile, readably; or as JSON."""
    if as_json:
        print_json(profile.to_dict())
        return
    console = console or wide_console()
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column()
    for name, text in profile_facts(profile).items():
        facts.add_row(name, Text(text))
    console.print(facts, highlight=False)
    console.print()
    console.print(arms_table(profile), highlight=False)
    row = own_row(profile)
    if row is not None:
        console.print(f"\n[bold]Fewer or cheaper?[/bold] {escape(row.answer)}", highlight=False)
    if profile.tradeoff.crossover:
        console.print(profile.tradeoff.crossover, highlight=False, markup=False)
    for note in (*profile.model.notes, *profile.evidence.notes):
        console.print(f"note: {note}", highlight=False, markup=False)


def profile_facts(profile: Profile) -> dict[str, str]:
    """What a person wants to know of a profile, by name, each a line of text."""
    model, budget, e = profile.model, profile.budget, profile.expected
    cost, base = e.cost, e.baseline_cost
    limit = format_macs(budget.limit) if budget.kind == "macs" else format_seconds(budget.limit)
    saving = f"{format_macs(cost.macs)} of {format_macs(base.macs)} ({e.relative_macs:.0%})"
    if cost.seconds is not None:
        saving += f", {seconds(cost.seconds)} of {seconds(base.seconds)}"
        saving += f" on {profile.environment.latency_device}" if profile.environment.latency_device else ""
    prompts = f"{e.difference.num_prompts} {'held-out' if e.confirmed else 'calibration'} prompts"
    return {
        "model": f"{model.id} {model.height}×{model.width}, {model.scheduler}",
        "budget": f"{budget.text}: at most {limit} per image",
        "plan": profile.knobs.describe(),
        "cost per image": saving,
        "score": f"{e.score:.2f}, unaccelerated {e.baseline_score:.2f} ({e.metric})",
        "difference": f"{interval(e.difference)} over {prompts}: {verdict(profile)}",
        **_kept(profile),
        "resolution": f"differences under {profile.evidence.smallest_difference:.2f} cannot be told from zero",
    }


def _kept(profile: Profile) -> dict[str, str]:
    """How near the pictures are to the unaccelerated ones, and what the guards asked for; only what there is."""
    e = profile.expected
    shown = (
        ("CMMD", e.cmmd, "{:.3g}"),
        ("SSIM", e.ssim, "{:.3f}"),
        ("PSNR", e.psnr, "{:.1f} dB"),
        ("LPIPS", e.lpips, "{:.3f}"),
    )
    measures = ", ".join(f"{name} {form.format(value)}" for name, value, form in shown if value is not None)
    guards = "; ".join(
        f"{'CLIP difference' if g.metric == 'clip' else g.metric.upper()} {g.rule} {g.limit:g}"
        + ("" if g.value is None else f", has {g.value:.3g}")
        + (" (kept a plan of a higher score out)" if g.bound else "")
        for g in profile.budget.guards
    )
    lines = {"pictures": f"{measures} against the unaccelerated ones" if measures else "", "guards": guards}
    return {name: line for name, line in lines.items() if line}


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
                escape(result.knobs),
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


def print_worker(result: WorkerResult, *, as_json: bool, console: Console | None = None) -> None:
    """What a worker did for its study, and whose seconds the study carries."""
    if as_json:
        print_json(result.as_dict())
        return
    console = console or Console()
    whose = f"measured on {result.latency_of}" if result.latency_of else "not measured"
    lines = [
        f"study {result.study} in {result.storage}",
        f"this worker: {result.trials} trials, {result.images} images; the study: {result.study_trials} trials",
        f"seconds in the study: {whose}, never on a worker",
        *(f"failed: {knobs}: {reason}" for knobs, reason in result.failed),
    ]
    if result.interrupted:
        lines.append("stopped; the trial in hand was given back")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
