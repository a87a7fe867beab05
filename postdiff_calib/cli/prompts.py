"""``postdiff prompts sample``: a calibration set from a corpus of captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def sample_command(
    corpus: Annotated[Path, typer.Option("--from", help="Captions: .jsonl, .txt, .csv, .parquet, or COCO's .json.")],
    out: Annotated[Path, typer.Option("--out", help="File to write, .jsonl.")],
    size: Annotated[int, typer.Option("--size", help="Calibration prompts; half as many are held out.")] = 500,
    seed: Annotated[int, typer.Option("--seed", help="Of the draw.")] = 0,
    stratify: Annotated[
        Literal["length", "embedding"], typer.Option("--stratify", help="What the sample keeps the proportions of.")
    ] = "length",
    scorer: Annotated[
        str, typer.Option("--scorer", help="open_clip model of the embeddings, ARCH::tag or local-dir:/path.")
    ] = "ViT-B-32::laion2b_s34b_b79k",
) -> None:
    """Draw a calibration set and a disjoint held-out set from a corpus of captions.

    Example: postdiff prompts sample --from captions_val2014.json --size 500 --seed 0 --out calib_sets/coco.jsonl
    """
    from postdiff_calib.prompts.read import load_prompt_set
    from postdiff_calib.prompts.sample import Embed, sample, write_set

    embed: Embed | None = None
    if stratify == "embedding":
        from postdiff_calib.quality.clip import ClipScorer

        model = ClipScorer(scorer)

        def embed(prompts: Sequence[str]) -> npt.NDArray[np.float32]:
            features: npt.NDArray[np.float32] = model.text_features(prompts).numpy()
            return features

    source = load_prompt_set(corpus)
    calibration, held_out = sample(source, size, seed, stratify=stratify, embed=embed)
    header = {"source": source.source, "licence": source.licence, "corpus": corpus.name, "corpus_prompts": len(source)}
    write_set(out, calibration, held_out, {**header, "seed": seed, "stratify": stratify})
    typer.echo(f"{out}: {len(calibration)} calibration and {len(held_out)} held-out prompts of {len(source)}")
