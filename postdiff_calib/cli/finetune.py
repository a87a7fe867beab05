"""``postdiff finetune``: a denoiser that has seen small images where small ones are asked of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from postdiff_calib.cli.log import with_log


@with_log
def finetune_command(
    *,
    model: Annotated[str, typer.Option("--model", help="A card's name, a local directory, or a hub id.")] = "shapes",
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Images with captions: a folder, .tar shards, .parquet.  [shapes: its own world]"),
    ] = None,
    column: Annotated[
        str | None, typer.Option("--column", help="Of the captions.  [default: prompt, caption or text]")
    ] = None,
    share: Annotated[float, typer.Option("-s", help="Share of the schedule that gets smaller images.")] = 0.5,
    beta: Annotated[float, typer.Option("--beta", help="Their side over the full side.")] = 0.5,
    steps: Annotated[int, typer.Option("--steps", help="Of the optimizer, in all; more go on.")] = 15_000,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images per step, over all processes.")] = 128,
    accumulation: Annotated[int, typer.Option("--accumulate", help="Parts of a process's share of a batch.")] = 1,
    rate: Annotated[float, typer.Option("--rate", help="Learning rate of AdamW.")] = 1e-5,
    warmup: Annotated[int, typer.Option("--warmup", help="Steps over which it rises.")] = 100,
    ema: Annotated[float, typer.Option("--ema", help="Of the average of the weights, which is written.")] = 0.9999,
    caption_dropout: Annotated[float, typer.Option("--caption-dropout", help="Share of empty captions.")] = 0.1,
    lora_rank: Annotated[int, typer.Option("--lora-rank", help="Train a LoRA of this rank; 0: every weight.")] = 0,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory for more time.")
    ] = False,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes that read images ahead.")] = 0,
    save_every: Annotated[int, typer.Option("--save-every", min=1, help="Steps between states.")] = 500,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Of samples and noise.")] = 0,
    work: Annotated[
        Path | None,
        typer.Option("--work", help="Folder of the state; the same goes on.  [default: studies/MODEL-finetune]"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the pipeline, or of the LoRA.  [default: out, in --work]")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda.")] = "auto",
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew instead of going on.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it would cost, and train nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the result.")] = False,
    log: Any,
) -> None:
    """Fine-tune a denoiser on mixed resolutions: the noisy share s of the schedule on images at beta of the side.

    The paper's supplementary F. Several GPUs: accelerate launch $(which postdiff) finetune …

    Example: postdiff finetune --model shapes -s 0.5 --beta 0.5 --steps 1000 --batch-size 64 --rate 1e-4
    """
    from postdiff_calib.jobs.finetune import FinetuneJob, price_finetune, run_finetune, speaks
    from postdiff_calib.models.tuning.asked import Tuning
    from postdiff_calib.report.progress import console_progress
    from postdiff_calib.report.studies import print_finetune_price, print_finetuned

    tuning = Tuning(
        low_res_fraction=share,
        low_res_scale=beta,
        batch_size=batch_size,
        accumulation=accumulation,
        rate=rate,
        warmup=warmup,
        ema=ema,
        caption_dropout=caption_dropout,
        lora_rank=lora_rank,
        seed=seed,
    )
    job = FinetuneJob(
        model=model,
        data=data,
        column=column,
        steps=steps,
        tuning=tuning,
        work=work,
        out=out,
        device=device,
        gradient_checkpointing=gradient_checkpointing,
        workers=workers,
        save_every=save_every,
        fresh=fresh,
    )
    if dry_run:
        print_finetune_price(price_finetune(job), as_json=as_json)
        return
    inputs = [job.data] if job.data is not None and job.data.is_file() else []
    silent = quiet or as_json or not speaks()
    with (
        log.of("finetune", inputs=inputs, study=job.folder, quiet=silent),
        console_progress(quiet=silent) as progress,
    ):
        result = run_finetune(job, progress)
    if speaks():
        print_finetuned(result, as_json=as_json)
