"""Results on a terminal: the calibrated plan, its cost and loss, the arms, and the answer; or the same as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from postdiff_calib.profile import ArmResult, Profile, RowTimes, TradeoffRow
from postdiff_calib.profile.categories import CategoriesSection
from postdiff_calib.quality.metrics import SCORE
from postdiff_calib.report.console import make_console, print_line, print_table
from postdiff_calib.report.json_output import print_json
from postdiff_calib.report.wording import (
    arm_difference,
    arm_results,
    budget_text,
    call_time,
    category_cell,
    category_metrics,
    category_note,
    fidelity,
    interval,
    macs_text,
    minimum_detectable_difference,
    own_row,
    prompts,
    result_text,
    results,
    row_difference,
    row_metrics,
    seconds,
    shown,
    speed_up,
    verdict,
    whole_calls,
    winner,
)
from postdiff_calib.scores.select import ARM_NAMES, Arm

if TYPE_CHECKING:
    from postdiff_calib.jobs.generate import GenerateResult
    from postdiff_calib.jobs.worker import WorkerResult


#: Columns of the table of arms whose cells need no heading.
ARM_COLUMNS = ("arm", "plan")


def wide_console() -> Console:
    """Standard output: as wide as the terminal, or wide enough for the tables where there is none."""
    return make_console(116)


def print_calibration(profile: Profile, path: Path, *, as_json: bool, console: Console | None = None) -> None:
    """The outcome of a calibration: what to run, what it costs, what it loses, and the answer."""
    if as_json:
        print_json("calibrate", {"profile": str(path), "baseline": profile.baseline_text, **profile.to_dict()})
        return
    console = console or wide_console()
    print_profile(profile, as_json=False, console=console)
    print_line(console, f"\nprofile written to {path}")


def print_profile(profile: Profile, *, as_json: bool, console: Console | None = None) -> None:
    """A profile, readably; or as JSON."""
    if as_json:
        print_json("profile", profile.to_dict())
        return
    console = console or wide_console()
    print_line(console, profile.baseline_text)
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column()
    for name, text in profile_facts(profile).items():
        facts.add_row(name, Text(text))
    console.print(facts, highlight=False)
    console.print()
    print_table(console, arms_table(profile.tradeoff.rows, profile.times.rows), plain=ARM_COLUMNS)
    row = own_row(profile)
    if row is not None:
        console.print(f"\n[bold]Step reduction or cheaper steps?[/bold] {escape(row.answer)}", highlight=False)
    if profile.tradeoff.crossover:
        console.print(profile.tradeoff.crossover, highlight=False, markup=False)
    if profile.categories is not None:
        heading = "\nby category of held-out prompt: difference to the baseline, 95 % interval"
        console.print(heading, style="italic", highlight=False)
        print_table(console, categories_table(profile.categories))
        console.print(category_note(profile.categories), style="dim italic", highlight=False, markup=False)
    for note in (*profile.model.notes, *profile.evidence.notes, *profile.times.notes, *_old_rows(profile)):
        console.print(f"note: {note}", highlight=False, markup=False)


def profile_facts(profile: Profile) -> dict[str, str]:
    """What a person wants to know of a profile, by name, each a line of text."""
    model = profile.model
    timed = {"time per call": call_time(profile), "timed whole": whole_calls(profile)}
    return {
        "model": f"{model.id} {model.height}×{model.width}, {model.scheduler}",
        "budget": budget_text(profile),
        **_scorers(profile),
        **({"restricted to": ", ".join(profile.evidence.restrictions)} if profile.evidence.restrictions else {}),
        "plan": f"{profile.words} ({profile.knobs.describe()})",
        "speed-up": speed_up(profile),
        "cost per image": macs_text(profile),
        **{name: text for name, text in timed.items() if text is not None},
        **metric_facts(profile),
        **_kept(profile),
        "detectable": minimum_detectable_difference(profile),
    }


def _scorers(profile: Profile) -> dict[str, str]:
    """The scorers as they are written, the one that was searched on first; nothing where CLIP judges alone."""
    evidence, first = profile.evidence, results(profile)[0].metric
    if first == SCORE and not evidence.also:
        return {}
    named = [(first, evidence.scorer), *((one.metric, one.scorer) for one in evidence.also)]
    return {"judged by": ", ".join(f"{shown(metric).label} ({scorer})" for metric, scorer in named)}


def metric_facts(profile: Profile) -> dict[str, str]:
    """The quality metrics by label, then the verdict over all of them, each a line of text."""
    metrics = {shown(result.metric).label: result_text(result) for result in results(profile)}
    return {**metrics, "verdict": verdict(profile, f"on {prompts(profile)}")}


def _kept(profile: Profile) -> dict[str, str]:
    """How near the images are to the baseline's, and what the guards asked for; only what there is."""
    measures = fidelity(profile)
    guards = "; ".join(
        f"{shown(g.metric).guarded} {g.rule} {g.limit:g}"
        + ("" if g.value is None else f", has {g.value:.3g}")
        + (" (kept a plan of a higher score out)" if g.bound else "")
        for g in profile.budget.guards
    )
    lines = {"images": f"{measures} against the baseline's" if measures else "", "guards": guards}
    return {name: line for name, line in lines.items() if line}


def _old_rows(profile: Profile) -> tuple[str, ...]:
    """What a reader must know of rows of older profiles; today all of them are on held-out prompts."""
    if all(result.confirmed for row in profile.tradeoff.rows for result in arm_results(row).values()):
        return ()
    return ("Some plans in the table are judged on calibration prompts, which flatters them. Calibrate again.",)


def arms_table(
    rows: Sequence[TradeoffRow],
    times: Sequence[RowTimes] = (),
    title: str | None = None,
    baseline_seconds: float | None = None,
) -> Table:
    """The three arms at every budget, a line each, and under them which is better.

    Args:
        rows: cheapest budget first.
        times: seconds of a call of each row's plans; empty where nothing was timed.
        title: above the table.
        baseline_seconds: of a call; shares of it stand beside the seconds, where budgets are in seconds.
    """
    metrics = row_metrics(rows)
    table = Table(
        title=escape(title or "best plan found of each arm: difference to the baseline, 95 % interval"),
        caption="better: cheaper steps minus step reduction, best found of each"
        + (", in spreads of the baseline" if any(row.unit == "spreads" for row in rows) else "")
        + ("; time: of a call" if times else ""),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name in ("budget", *ARM_COLUMNS):
        table.add_column(name)
    for name in ("MACs", "time", *(shown(metric).label for metric in metrics)):
        table.add_column(escape(name), justify="right", no_wrap=True)
    for number, row in enumerate(rows):
        timed = times[number] if number < len(times) else None
        lines = [
            _arm_line(arm, result, metrics, None if timed is None else getattr(timed, arm), baseline_seconds)
            for arm, result in arm_results(row).items()
        ]
        lines.append(_better_line(row, metrics))
        for i, line in enumerate(lines):
            table.add_row(f"{row.share:.0%}" if i == 0 else "", *(Text(cell) for cell in line))
        table.add_section()
    return table


def categories_table(section: CategoriesSection) -> Table:
    """The plan minus the baseline by category of held-out prompt."""
    metrics = category_metrics(section)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("category")
    for name in ("prompts", *(shown(metric).label for metric in metrics)):
        table.add_column(escape(name), justify="right", no_wrap=True)
    for row in section.rows:
        cells = (row.category, str(row.num_prompts), *(category_cell(row, metric) for metric in metrics))
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _arm_line(
    arm: Arm, result: ArmResult, metrics: Sequence[str], call: float | None, baseline_call: float | None
) -> list[str]:
    time = seconds(call)
    if call is not None and baseline_call:
        time += f" ({call / baseline_call:.0%})"
    found = [arm_difference(result, metric) for metric in metrics]
    itself = all(c is None or c.low == c.high for c in found)
    differences = [
        "–" if c is None else "itself" if itself else interval(c, metric)
        for metric, c in zip(metrics, found, strict=True)
    ]
    return [ARM_NAMES[arm], result.knobs, f"{result.relative_macs:.0%}", time, *differences]


def _better_line(row: TradeoffRow, metrics: Sequence[str]) -> list[str]:
    """Who wins; the difference of one metric stands in its column, that of several metrics beside the winner."""
    said, difference = winner(row), row_difference(row).removesuffix(" spreads")
    if row.unit == "points":
        return ["better", said, "", "", difference, *("" for _ in metrics[1:])]
    cells = [interval(row.metrics[metric], metric) if metric in row.metrics else "" for metric in metrics]
    return ["better", f"{said}: {difference}" if difference else said, "", "", *cells]


def print_generated(result: GenerateResult, *, as_json: bool, console: Console | None = None) -> None:
    """What was generated, where it is, and how long it took."""
    if as_json:
        print_json("generate", result.as_dict())
        return
    console = console or make_console()
    if result.baseline:
        print_line(console, result.baseline)
    for image in result.images:
        print_line(console, f"{image.path}  {image.prompt}")
        if image.pair:
            print_line(console, f"{image.pair}  baseline | {result.knobs}")
    line = f"{result.knobs}: {seconds(result.seconds_per_image)} per image"
    if result.baseline_seconds_per_image is not None:
        line += f", baseline {seconds(result.baseline_seconds_per_image)}"
    console.print(line, highlight=False, markup=False)
    for note in result.notes:
        console.print(f"note: {note}", highlight=False, markup=False)


def print_worker(result: WorkerResult, *, as_json: bool, console: Console | None = None) -> None:
    """What a worker did for its study, and whose seconds the study carries."""
    if as_json:
        print_json("worker", result.as_dict())
        return
    console = console or make_console()
    whose = f"measured on {result.latency_of}, never on a worker" if result.latency_of else "none"
    lines = [
        f"study {result.study} in {result.storage}",
        f"this worker: {result.trials} trials, {result.images} images; the study: {result.study_trials} trials",
        f"seconds in the study: {whose}",
        *(f"failed: {knobs}: {reason}" for knobs, reason in result.failed),
    ]
    for line in lines:
        print_line(console, line)
