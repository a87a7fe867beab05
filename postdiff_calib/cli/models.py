"""``postdiff models``: the models that postdiff knows by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated

import typer


def models_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print the cards as JSON.")] = False,
) -> None:
    """List the supported models: where they are, how they run, and which knobs apply.

    Any other pipeline of the same classes works too, by local directory or as owner/name@COMMIT on the hub.

    Example: postdiff models
    """
    from postdiff_calib.models.card import DPM
    from postdiff_calib.models.cards import CARDS

    cards = [card for card in CARDS if card.available]
    if as_json:
        from postdiff_calib.report.json_output import print_json

        left_out = ("networks", "text_lengths", "train")
        rows = [{f.name: getattr(card, f.name) for f in fields(card) if f.name not in left_out} for card in cards]
        for row, card in zip(rows, cards, strict=True):
            row["knobs"] = sorted(card.knobs)
        print_json("models", {"models": rows})
        return
    from rich.table import Table

    from postdiff_calib.knobs import table as knob_table
    from postdiff_calib.report.console import make_console, print_table

    table = Table(box=None, pad_edge=False)
    for heading in ("name", "size", "T", "w", "scheduler", "knobs", "licence", "from"):
        table.add_column(heading, no_wrap=heading not in ("from", "licence"), overflow="fold")
    for card in cards:
        symbols = [row.symbol for row in knob_table() if row.field in card.knobs and len(row.symbol) == 1]
        source = "this package" if card.embedded else f"{card.hub_id}@{(card.revision or 'COMMIT')[:8]}"
        source += f", U-Net {card.unet_hub_id}@COMMIT" if card.unet_hub_id else ""
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
    console = make_console(200)
    print_table(console, table)
    console.print(
        "COMMIT: the card names none. The newest is looked up at first use and recorded in study and profile; "
        "or name one: sd21@ and the 40 digits of its hash",
        highlight=False,
    )
