"""``postdiff compare``: step reduction or cheaper steps at every budget of a study, or two profiles side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from postdiff_calib.cli.shared import PerImage


def compare_command(
    what: Annotated[list[Path], typer.Argument(help="A study's folder, or two profiles.", show_default=False)],
    budgets: Annotated[
        str | None,
        typer.Option("--budgets", help="Such as 20%,40%,80%.  [default: those that were searched]"),
    ] = None,
    per_image: PerImage = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw quality against cost into this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Answer the question at every budget: step reduction, cheaper steps, or combined?

    Example: postdiff compare studies/shapes --plot compare.png

    Example: postdiff compare a.yaml b.yaml
    """
    from postdiff_calib.errors import UsageError
    from postdiff_calib.profile import load_profile
    from postdiff_calib.report.comparison import print_profiles, print_tradeoff

    if len(what) > 2:
        raise UsageError(f"{len(what)} paths", "one study or two profiles are compared", "leave some out")
    if len(what) == 2:
        if plot is not None or budgets is not None:
            raise UsageError("--plot or --budgets with two profiles", "they go with a study", "leave them out")
        first, second = map(load_profile, what)
        print_profiles(what, first, second, as_json=as_json)
        return
    from postdiff_calib.cost.budget import budgets_of
    from postdiff_calib.files import refuse_output
    from postdiff_calib.study.arms import compare_arms
    from postdiff_calib.study.kept import kept_studies
    from postdiff_calib.study.record import Study

    if plot is not None:
        refuse_output(plot, study=what[0], what="plot")
    study = Study.load(what[0])
    tradeoff = compare_arms(study, budgets_of(budgets, per_image=per_image) if budgets is not None else ())
    if plot is not None:
        from postdiff_calib.report.plots import plot_tradeoff

        plot_tradeoff(tradeoff, plot)
    kept = kept_studies(study.folder, study.record.asked.model, study.record.model.id)
    print_tradeoff(tradeoff, plot, kept, as_json=as_json)
