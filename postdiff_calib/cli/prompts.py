"""``postdiff prompts sample``: a calibration set from a corpus of captions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer


def sample_command(
    corpus: Annotated[
        Path, typer.Option("--from", help="Captions: .jsonl, .txt, .csv, .tsv, .parquet, or COCO's .json.")
    ],
    out: Annotated[Path, typer.Option("--out", help="File to write, .jsonl.")],
    size: Annotated[
        int, typer.Option("--size", help="Held-out prompts, to judge finalists on; half as many are for the search.")
    ] = 500,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Of the draw.")] = 0,
    stratify: Annotated[
        Literal["length", "embedding"], typer.Option("--stratify", help="What the sample keeps the proportions of.")
    ] = "length",
    scorer: Annotated[
        str, typer.Option("--scorer", help="open_clip model of the embeddings, ARCH::tag or local-dir:/path.")
    ] = "ViT-B-32::laion2b_s34b_b79k",
    column: Annotated[
        str | None, typer.Option("--column", help="Column of the captions.  [default: prompt, caption or text]")
    ] = None,
    category: Annotated[
        str | None, typer.Option("--category", help="Column of their categories.  [default: category, if there]")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="Where the embeddings are made: cpu, cuda …")] = "cpu",
) -> None:
    """Draw a calibration set and a disjoint held-out set from a corpus of captions.

    The corpus is read row by row and may be larger than memory. Empty captions and repeats are dropped.

    Example: postdiff prompts sample --from captions_val2014.json --size 500 --seed 0 --out calib_sets/coco.jsonl
    """
    from postdiff_calib.cli.say import say
    from postdiff_calib.files import refuse_output
    from postdiff_calib.prompts.formats import Columns
    from postdiff_calib.prompts.read import Corpus
    from postdiff_calib.prompts.sample import Embed, sample, write_set

    source = Corpus(corpus, Columns(column, category))
    refuse_output(out, inputs=[source.path])
    header: dict[str, Any] = {"seed": seed, "stratify": stratify}
    embed: Embed | None = None
    if stratify == "embedding":
        from postdiff_calib.quality.clip import ClipScorer

        model = ClipScorer(scorer, device=device)
        header |= {"embedding": model.name, "embedding_sha256": model.weights_sha256}
        embed = model.embed_texts
    drawn = sample(source, size, seed, stratify=stratify, embed=embed)
    categories = source.categories_of([*drawn.calibration, *drawn.held_out])
    write_set(out, drawn, source.provenance() | header, categories)
    say(
        f"{out}: {len(drawn.calibration)} calibration and {len(drawn.held_out)} held-out prompts "
        f"of {drawn.corpus_prompts}"
    )
