"""The ``postdiff`` command: the explicit list of commands, and what its options are."""

from __future__ import annotations

from typing import Annotated

import typer

from postdiff_calib.cli.ablate import ablate_command
from postdiff_calib.cli.analyze import redundancy_command
from postdiff_calib.cli.calibrate import calibrate_command
from postdiff_calib.cli.compare import compare_command
from postdiff_calib.cli.compare_methods import compare_methods_command
from postdiff_calib.cli.cost import cost_command
from postdiff_calib.cli.ending import run
from postdiff_calib.cli.export import export_command
from postdiff_calib.cli.fid import fid_command
from postdiff_calib.cli.finetune import finetune_command
from postdiff_calib.cli.generate import generate_command
from postdiff_calib.cli.grid import grid_command
from postdiff_calib.cli.judge import judge_command
from postdiff_calib.cli.models import models_command
from postdiff_calib.cli.profile import schema_command, show_command
from postdiff_calib.cli.prompts import sample_command, study_command
from postdiff_calib.cli.report import report_command
from postdiff_calib.cli.scorers import scorers_command
from postdiff_calib.cli.verify import verify_command
from postdiff_calib.cli.worker import worker_command

app = typer.Typer(
    name="postdiff",
    help="Finds the compute-optimal way to run a text-to-image diffusion model: step reduction or cheaper steps.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.command("calibrate")(calibrate_command)
app.command("worker")(worker_command)
app.command("export")(export_command)
app.command("compare")(compare_command)
app.command("report")(report_command)
app.command("grid")(grid_command)
app.command("generate")(generate_command)
app.command("verify")(verify_command)
app.command("judge")(judge_command)
app.command("cost")(cost_command)
app.command("ablate")(ablate_command)
app.command("compare-methods")(compare_methods_command)
app.command("fid")(fid_command)
app.command("finetune")(finetune_command)
app.command("models")(models_command)
app.command("scorers")(scorers_command)

profile_app = typer.Typer(help="Profiles: print one, or their schema.", no_args_is_help=True, rich_markup_mode=None)
profile_app.command("show")(show_command)
profile_app.command("schema")(schema_command)
app.add_typer(profile_app, name="profile")

prompts_app = typer.Typer(help="Calibration sets.", no_args_is_help=True, rich_markup_mode=None)
prompts_app.command("sample")(sample_command)
prompts_app.command("study")(study_command)
app.add_typer(prompts_app, name="prompts")

analyze_app = typer.Typer(help="What a model does from step to step.", no_args_is_help=True, rich_markup_mode=None)
analyze_app.command("redundancy")(redundancy_command)
app.add_typer(analyze_app, name="analyze")


@prompts_app.callback()
def _prompts() -> None:
    """Calibration sets: draw one from a caption corpus, and how large one must be.

    Example: postdiff prompts sample --from captions_val2014.json --size 500 --out calib_sets/coco.jsonl
    """


@analyze_app.callback()
def _analyze() -> None:
    """What a model does from step to step: how far its blocks and layers move.

    Example: postdiff analyze redundancy --model shapes
    """


def _version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        typer.echo(f"postdiff {version('postdiff')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the trace of an unexpected error; goes with any command.")
    ] = False,
) -> None:
    """Finds the compute-optimal way to run a text-to-image diffusion model: step reduction or cheaper steps.

    Start with: postdiff calibrate --model shapes --budget 60%
    """


def main(argv: list[str] | None = None) -> None:
    """Run the command line; never returns. Exit codes are ``ending``'s."""
    run(app, argv)
