"""``postdiff models``: the models that postdiff knows by name."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Annotated

import typer


def models_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print the cards as JSON.")] = False,
) -> None:
    """List the supported models: where they are, how they run, and which knobs apply.

    Any other Stable Diffusion, SDXL, LCM or PixArt pipeline works too, by local directory or hub id.

    Example: postdiff models
    """
    from postdiff_calib.models.cards import CARDS, DPM

    if as_json:
        rows = [{f.name: getattr(card, f.name) for f in fields(card) if f.name != "networks"} for card in CARDS]
        for row, card in zip(rows, CARDS, strict=True):
            row["knobs"] = sorted(card.knobs)
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.table import Table

    from postdiff_calib.knobs import table as knob_table
    from postdiff_calib.report.console import make_console

    table = Table(box=None, pad_edge=False)
    for heading in ("name", "size", "T", "w", "scheduler", "knobs", "licence", "from"):
        table.add_column(heading, no_wrap=heading not in ("from", "licence"), overflow="fold")
    for card in CARDS:
        symbols = [row.symbol for row in knob_table() if row.field in card.knobs and len(row.symbol) == 1]
        source = "this package" if card.name == "shapes" else f"{card.hub_id}@{card.revision[:8]}"
        table.add_row(
            card.name,
            f"{card.height}×{card.width}",
            str(card.num_inference_steps),
            f"{card.guidance_scale:g}",
            "DPM++ 2M" if card.scheduler == DPM else card.scheduler.removesuffix("Scheduler"),
            " ".join(symbols),
            card.licence,
            source,
        )
    # Piped output has no width of its own; rows must stay whole for grep.
    make_console(200).print(table)
