"""What ``postdiff cost`` prints: a plan's price, a grid of plans, a step by module, a latency table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table

from postdiff_calib.accelerate.compiled import stated_mode
from postdiff_calib.cli.say import say
from postdiff_calib.cost import CostTable
from postdiff_calib.cost.budget import PlanCost, format_flops, format_macs, format_seconds, parse_budget
from postdiff_calib.cost.grid import binding_knob, reachable, show
from postdiff_calib.errors import PostdiffError
from postdiff_calib.jobs.price import Priced
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.card import Card
from postdiff_calib.models.deployment import describe_baseline
from postdiff_calib.plan import StepPlan, compile_plan
from postdiff_calib.report.console import make_console, print_table
from postdiff_calib.report.json_output import print_json
from postdiff_calib.report.wording import factor


@dataclass
class CostView:
    """One model's prices, seen from one set of knobs.

    Args:
        priced: the model, its cost table and the plan to price.
        as_json: print JSON instead of tables.
        negative_prompt: of the baseline.
    """

    priced: Priced
    as_json: bool
    negative_prompt: str | None = None

    @property
    def card(self) -> Card:
        """The model."""
        return self.priced.card

    @property
    def costs(self) -> CostTable:
        """Its cost table."""
        return self.priced.costs

    @property
    def knobs(self) -> Knobs:
        """The plan."""
        return self.priced.knobs

    @property
    def baseline(self) -> Knobs:
        """The baseline at its number of steps."""
        return self.priced.baseline

    def admits(self, plan: StepPlan) -> bool:
        """Whether the sampler runs a plan."""
        try:
            self.priced.admit(plan)
        except PostdiffError:
            return False
        return True

    @property
    def baseline_text(self) -> str:
        """The baseline in one line."""
        shown = replace(self.card, height=self.costs.height, width=self.costs.width)
        return describe_baseline(self.card.num_inference_steps, shown, self.negative_prompt)

    def print_plan(self) -> None:
        """The plan's price."""
        facts = self.priced.facts()
        if self.as_json:
            print_json("cost", {"baseline": self.baseline_text, **facts})
            return
        say(self.baseline_text)
        counted = (
            "attention's products counted"
            if self.priced.convention == "full"
            else "convolutions and linear layers only"
        )
        words = compile_plan(self.knobs).words(self.costs.guides)
        say(f"{facts['model']} {facts['height']}×{facts['width']}: {words} ({self.knobs.describe()})")
        macs, share = facts["macs_total"], facts["relative_to_baseline"]
        say(f"denoising   {format_macs(macs)} ({format_flops(macs)}) per image")
        say(f"            = {100 * share:.1f}% of the baseline ({self.baseline.describe()}), speed-up {factor(share)}")
        say(f"            convention {self.priced.convention}: {counted}")
        say(
            f"outside     text {format_macs(facts['macs_text_encoder'])}, decoding "
            f"{format_macs(facts['macs_vae_decoder'])}"
        )
        if facts.get("times"):
            device = facts["environment"].get("device_name", "?")
            times, size = facts["times"], facts["batch_size"]
            median, high = format_seconds(times["call"]), format_seconds(times["call_p95"])
            image = f" of {size} images, {format_seconds(times['per_image'])} per image" if size > 1 else " of 1 image"
            how = stated_mode(facts["environment"].get("compiled")) or "off"
            compiled = "" if how == "off" else f", compiled ({how})"
            say(f"seconds     {median} per call (p95 {high}){image}; {device}{compiled}")
            latency = self.costs.latency
            if latency is not None and not latency.stable:
                say(f"warning     seconds are {latency.stability}: measure again (--refresh)")

    def print_latency(self, out: Path | None) -> None:
        """The measured kinds of step."""
        latency = self.costs.latency
        if latency is None:
            return
        title = f"seconds per image, in calls of {latency.batch_size}"
        table = _table("kind of step", "median", "quartiles", "measured", "MACs", title=title)
        for key, time in sorted(latency.steps.items()):
            spread = f"{format_seconds(time.low)} … {format_seconds(time.high)}"
            macs = format_macs(self.costs.step_macs(key).full)
            table.add_row(key.describe(), format_seconds(time.median), spread, f"{time.count}×", macs)
        for name, part in (("text encoding", latency.text), ("all before step 0", latency.before)):
            table.add_row(name, format_seconds(part.median), "", f"{part.count}×", "")
        table.add_row("decoding", format_seconds(latency.after.median), "", f"{latency.after.count}×", "")
        table.add_row("overhead of a step", format_seconds(latency.step_overhead.median), "", "", "")
        table.add_row("first step besides", format_seconds(max(0.0, latency.first)), "", "", "")
        table.add_row("change of resolution", format_seconds(max(0.0, latency.switch)), "", "", "")
        _print(table)
        say(f"{len(latency.steps)} kinds measured; any other is predicted from its MACs")
        if out is not None:
            say(f"written to {out}")

    def print_modules(self) -> None:
        """MACs of a full and a cached step by block and kind of layer."""
        from postdiff_calib.cost.meter import StepKey
        from postdiff_calib.cost.modules import breakdown
        from postdiff_calib.techniques import techniques
        from postdiff_calib.techniques.technique import Deployment

        self.priced.admit(compile_plan(self.knobs))
        full = StepKey(*self.costs.latent, self.costs.guides, True, True, -1)
        shown = {"full step": full}
        deployment = Deployment(self.costs.latent, self.costs.latent_multiple, self.costs.guides)
        for technique in techniques():
            if (saving := technique.saving_step(self.card.knobs)) is not None:
                name, kind = saving
                shown[name] = full._replace(**technique.key(kind, self.knobs, deployment))
        counted = {name: breakdown(self.costs.meter, key) for name, key in shown.items()}
        if self.as_json:
            print_json("cost-modules", {"steps": {name: blocks for name, (blocks, _) in counted.items()}})
            return
        say(self.baseline_text)
        for name, (blocks, counter) in counted.items():
            _print(_module_table(f"{name} (counted with {counter})", blocks))

    def print_grid(self, budget: str | None, plot: Path | None) -> None:
        """The reachable range of costs by T.

        Raises:
            BudgetError: the budget cannot be read, or no plan is within it.
        """
        from postdiff_calib.search.space import SearchSpace

        baseline = self.costs.price(compile_plan(self.baseline))
        limit = parse_budget(budget).resolve(baseline) if budget else None
        space = SearchSpace.from_card(self.card, self.costs.latent)
        priced: list[tuple[Knobs, PlanCost]] = [
            (plan.knobs, self.costs.price(plan)) for plan in space.plans if self.admits(plan)
        ]
        rows = reachable(priced, limit)
        if plot is not None:
            title = f"{self.costs.model} {self.costs.height}×{self.costs.width}"
            from postdiff_calib.report.plots import plot_reachable

            plot_reachable(rows, plot, title, limit)
        if self.as_json:
            facts = [{**vars(row), "cheapest_knobs": row.cheapest_knobs.as_dict()} for row in rows]
            data = {"baseline": self.baseline_text, "budget": limit.value if limit else None, "rows": facts}
            print_json("cost-grid", data)
        else:
            say(self.baseline_text)
            table = _table("T", "plans", "cheapest", "most expensive", "cheapest plan", "within budget")
            for row in rows:
                within = "" if row.within is None else str(row.within)
                figures = show(row.cheapest, limit), show(row.most_expensive, limit)
                table.add_row(
                    str(row.num_inference_steps), str(row.plans), *figures, row.cheapest_knobs.describe(), within
                )
            _print(table)
        if limit is not None:
            allowed = sum(row.within or 0 for row in rows)
            if allowed == 0:
                knobs, binding = binding_knob(rows)
                cheapest = self.costs.price(compile_plan(knobs))
                limit.require_reachable(cheapest, knobs.describe(), binding)
            if not self.as_json:
                say(f"{allowed} of {len(priced)} plans cost at most {limit.show(limit.value)} per {limit.per}")
                if limit.above_baseline:
                    say(f"note: {limit.above_baseline}")
        if plot is not None and not self.as_json:
            say(f"drawn into {plot}")


def _module_table(title: str, blocks: dict[str, dict[str, int]]) -> Table:
    kinds = list(next(iter(blocks.values())))
    columns = [sum(row[kind] for row in blocks.values()) for kind in kinds]
    unit, scale = ("GMACs", 1e9) if sum(columns) >= 1e10 else ("MMACs", 1e6)

    def cells(figures: Iterable[int]) -> list[str]:
        return [f"{figure / scale:.2f}" if figure else "" for figure in figures]

    table = _table("block", *kinds, "total", title=f"{title}, {unit} per image")
    for block, row in blocks.items():
        table.add_row(block, *cells([*row.values(), sum(row.values())]))
    table.add_row("total", *cells([*columns, sum(columns)]))
    return table


def _table(*headings: str, title: str | None = None) -> Table:
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i == 0 or "plan" in heading[-4:] else "right", no_wrap=True)
    return table


def _print(table: Table) -> None:
    # Piped output has no width of its own; rows must stay whole.
    print_table(make_console(200), table)
