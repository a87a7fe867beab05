"""``postdiff fid``: distance of a folder of images from a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def fid_command(
    images: Annotated[Path, typer.Argument(help="Folder of images, 2,048 at least.", show_default=False)],
    reference: Annotated[
        str, typer.Option("--reference", help="Folder of real images; or own: what the embedded models learned from.")
    ] = "own",
    features: Annotated[
        Literal["clip", "inception"], typer.Option("--features", help="Of the scorer, or Inception's where cached.")
    ] = "clip",
    model: Annotated[str, typer.Option("--model", help="Whose scorer's features are taken: a card's name.")] = "shapes",
    scorer: Annotated[
        str | None, typer.Option("--scorer", help="Another one, ARCH::tag or local-dir:/path.  [default: the model's]")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Of subsets and own images.")] = 0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, mps …")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure FID on CLIP's features, or Inception's, and FID∞, which does not depend on the number of images.

    Example: postdiff fid images --reference coco/val2014 --model sd15
    """
    from postdiff_calib.jobs.fid import FidJob, run_fid
    from postdiff_calib.report.studies import print_fid

    result = run_fid(FidJob(images, reference, features, model, scorer, seed, device))
    print_fid(result, as_json=as_json)
