"""One of everything that a command prints, made without a model: ``(kind of JSON, function that prints it)``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from profiles import profile_data
from rich.console import Console
from studies import CLIP, make_study

from postdiff_calib.cli.cost_output import CostView
from postdiff_calib.cli.models import models_command
from postdiff_calib.cost.budget import PlanCost
from postdiff_calib.jobs.checks import Check
from postdiff_calib.jobs.dry_run import BudgetSpace, DryRun
from postdiff_calib.jobs.export import ExportJob, run_export
from postdiff_calib.jobs.finetune import Finetuned, FinetunePrice
from postdiff_calib.jobs.generate import GeneratedImage, GenerateResult
from postdiff_calib.jobs.paper_study import Price
from postdiff_calib.jobs.price import CostJob, run_cost
from postdiff_calib.jobs.redundancy import RedundancyResult
from postdiff_calib.jobs.verify import VerifyResult
from postdiff_calib.jobs.worker import WorkerResult
from postdiff_calib.knobs import Knobs, searched
from postdiff_calib.models.tuning.asked import Tuning
from postdiff_calib.profile import Profile
from postdiff_calib.quality.fid import Fid
from postdiff_calib.quality.listed import listed
from postdiff_calib.report.comparison import print_exported, print_profiles, print_tradeoff
from postdiff_calib.report.dry_run import print_dry_run
from postdiff_calib.report.json_output import Kind
from postdiff_calib.report.judged import print_judgement
from postdiff_calib.report.scorers import print_scorers
from postdiff_calib.report.studies import (
    print_ablation,
    print_fid,
    print_finetune_price,
    print_finetuned,
    print_methods,
    print_price,
    print_prompt_sizes,
    print_redundancy,
)
from postdiff_calib.report.terminal import print_calibration, print_generated, print_profile, print_worker
from postdiff_calib.report.verification import print_verification
from postdiff_calib.scores.objective import Objective
from postdiff_calib.scores.select import PlanScores
from postdiff_calib.study.ablation import Ablation, AblationRow, Measure
from postdiff_calib.study.arms import compare_arms
from postdiff_calib.study.judged import Cost, Judgement, ScoredSetUp, judge_all
from postdiff_calib.study.methods import MethodComparison, MethodRow
from postdiff_calib.study.prompt_sizes import PromptSizes, SizeRow
from postdiff_calib.study.redundancy import Redundancy

#: Prints as JSON, or on a console.
Printer = Callable[[bool, Console], None]
DEVICE = "Intel(R) Xeon(R) Processor of a Host with a Long Name"


def profile() -> Profile:
    """Of a model with categories, of long knobs."""
    data = profile_data(Knobs(20, 0.3, 0.375, 5, 0.75))
    data["times"]["device"] = DEVICE
    return Profile.model_validate(data)


def ablation() -> Ablation:
    """A row as wide as they come, and one that failed for a long reason."""
    knobs = Knobs(20, 0.5, 0.375, 3, 0.75)
    measured = {
        name: Measure(mean, mean - 1, mean + 1, None) for name, mean in (("clip", 86.5), ("scene", 90.0), ("ssim", 0.9))
    }
    values = {"low_res_scale": 0.375, "guidance_fraction": 0.75}
    rows = [
        AblationRow(values, knobs.describe(), "a", PlanCost(1e9, 1e9, 0.05, 0.06), 0.4, measured),
        AblationRow(values, "T=20 s=0.5 β=0.25", "b", PlanCost(1e9, 1e9, 0.05, 0.06), 0.4, {}, "its images " * 12),
    ]
    baseline = AblationRow({}, "baseline", "c", PlanCost(2e9, 2e9, 0.1, 0.12), 1.0, measured)
    varied = {name: (value,) for name, value in values.items()}
    return Ablation("shapes", 40, varied, {}, baseline, tuple(rows), disagreement=0.03)


def redundancy(folder: Path) -> RedundancyResult:
    """Of seven blocks over four steps."""
    rng = np.random.default_rng(0)
    blocks = tuple(f"down_blocks.{i}.attentions.0" for i in range(7))
    kinds = {"self-attention": 12, "convolution or feed-forward": 40}
    found = Redundancy(blocks, kinds, rng.random((5, 7, 3)), rng.random((5, 2, 3)), rng.random((5, 2, 3)))
    return RedundancyResult("shapes", 4, found, folder)


def prompt_sizes() -> PromptSizes:
    """Of two sizes and one above the number of prompts."""
    rows = tuple(SizeRow(n, 0.7, 0.6, 0.8, chance, 0.12) for n, chance in ((50, 0.93), (100, 0.97), (200, 0.99)))
    return PromptSizes("studies/shapes", "clip", 60, 120, 0.34, 0.95, rows)


def methods() -> MethodComparison:
    """A method that fits a budget with a FID, and one that does not."""
    cost = PlanCost(1e9, 1e9)
    measured = {"clip": Measure(86.5, 85.5, 87.5, None), "ssim": Measure(0.9, 0.89, 0.91, None)}
    whole = MethodRow("baseline", "", cost, 1.0, measured, (0.1, 0.2), fid=Fid(3.0, 2.0, 0.1, 2048, 2048, "features"))
    rows = (
        MethodRow(
            "PostDiff, the paper's setting", "T=20 s=0.5 β=0.5 k=2", cost, 0.4, measured, (0.05, 0.08), "", whole.fid
        ),
        MethodRow("ToMe", why="costs 97% at least"),
    )
    return MethodComparison("shapes", 40, whole, {"60%": rows})


def dry_run() -> DryRun:
    """Of three budgets."""
    budgets = tuple(
        BudgetSpace(text, share, {"step_reduction": 9, "cheaper_steps": 420, "combined": 3100})
        for text, share in (("60% of the time", 0.6), ("1.2s", 0.4), ("25%", 0.25))
    )
    values = {row.field: row.grid or (1.0,) for row in searched()}
    work = {"spread": 60, "search": 1100, "held-out": 1500}
    return DryRun(
        "baseline: 20 steps", ("k=1",), values, 4000, budgets, 363, work, {n: 0.05 * v for n, v in work.items()}
    )


def verification() -> VerifyResult:
    """A check of every outcome."""
    long = "is 12 % slower than the profile says, which is more than the 5 % that it may be"
    checks = [
        Check("latency against the baseline", "at most 62 % of the baseline's", "61.5 % of it", "passed"),
        Check("scheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "failed", "restore the scheduler"),
        Check("seconds per image", "52.2 ms", "58.5 ms", "warning", long, {"share": 1.12}),
        Check("scenes right", "within 3.4", "–", "not judged"),
    ]
    return VerifyResult(Path("profile.yaml"), tuple(checks), ("a note",), "baseline: 20 steps")


def judgement() -> Judgement:
    """Of one set-up that is judged and one that broke."""
    scores = PlanScores(Knobs(20), PlanCost(2e9, 2e9), np.linspace(60, 70, 12))
    faster = PlanScores(Knobs(12), PlanCost(1e9, 1e9), scores.scores - 0.2)
    setups = [
        ScoredSetUp("a_module:a_function_of_a_long_name", faster, Cost(4, (0.05, 0.06), (0.1, 0.11), 1e9, 2e9)),
        ScoredSetUp("profile.yaml", None, None, "it does not fit into memory"),
    ]
    judged = judge_all(setups, scores, Objective((CLIP,)))
    return Judgement("shapes", "baseline: 20 steps", 12, {"clip": "shapes"}, judged, ("a note",))


def outputs(folder: Path) -> list[tuple[Kind, Printer]]:
    """Every kind of output.

    Args:
        folder: where commands may write, the working directory.
    """
    study = make_study(folder / "study")
    exported = run_export(ExportJob(folder / "study", out=folder / "p.yaml"))
    second = run_export(ExportJob(folder / "study", budget="40%", out=folder / "q.yaml"))[0].profile
    images = (GeneratedImage("a red circle", 3, "out/0.png", "out/0b.png", "out/0p.png"),)
    generated = GenerateResult("T=12", images, 0.05, 0.09, ("a note",), "baseline: 20 steps")
    worked = WorkerResult("postdiff", "postgresql://host/x", 9, 40, 80, (("T=3", "black images"),), DEVICE, False)

    tuned = Finetuned("shapes", 4, Path("out"), [(2, 0.5), (4, 0.4)], Tuning(), "3 images of data")

    priced = run_cost(CostJob("shapes", Knobs(20, 0.3, 0.375, 5, 0.75).as_dict()))
    small = replace(priced, card=replace(priced.card, step_range=(4, 5), low_res_scales=(0.5,)))
    return [
        ("calibrate", lambda j, c: print_calibration(profile(), Path("p.yaml"), as_json=j, console=c)),
        ("calibrate-dry-run", lambda j, c: print_dry_run(dry_run(), as_json=j, console=c)),
        ("worker", lambda j, c: print_worker(worked, as_json=j, console=c)),
        ("export", lambda j, c: print_exported(exported, as_json=j, console=c)),
        ("compare", lambda j, c: print_tradeoff(compare_arms(study), as_json=j, console=c)),
        (
            "compare-profiles",
            lambda j, c: print_profiles([Path("p"), Path("q")], exported[0].profile, second, as_json=j, console=c),
        ),
        ("generate", lambda j, c: print_generated(generated, as_json=j, console=c)),
        ("verify", lambda j, c: print_verification(verification(), as_json=j, console=c)),
        ("judge", lambda j, c: print_judgement(judgement(), folder / "grid.png", as_json=j, console=c)),
        ("cost", lambda j, _: CostView(priced, j).print_plan()),
        ("cost-grid", lambda j, _: CostView(small, j).print_grid("60%", None)),
        ("cost-modules", lambda j, _: CostView(priced, j).print_modules()),
        ("ablate", lambda j, c: print_ablation(ablation(), folder / "a.json", as_json=j, console=c)),
        ("redundancy", lambda j, c: print_redundancy(redundancy(folder), folder / "r.json", as_json=j, console=c)),
        ("prompt-sizes", lambda j, c: print_prompt_sizes(prompt_sizes(), folder / "s.json", as_json=j, console=c)),
        ("methods", lambda j, c: print_methods(methods(), folder / "m.json", as_json=j, console=c)),
        ("finetune", lambda j, c: print_finetuned(tuned, as_json=j, console=c)),
        ("finetune-price", lambda j, c: print_finetune_price(FinetunePrice(1280, 4e12), as_json=j, console=c)),
        ("fid", lambda j, c: print_fid(Fid(3.0, 2.0, 0.1, 2048, 2048, "features"), as_json=j, console=c)),
        ("study-price", lambda j, c: print_price(Price(40, 4e12, 20.0), as_json=j, console=c)),
        ("models", lambda j, _: models_command(as_json=j)),
        ("scorers", lambda j, c: print_scorers(listed(), as_json=j, console=c)),
        ("profile", lambda j, c: print_profile(profile(), as_json=j, console=c)),
    ]
