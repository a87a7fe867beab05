"""``postdiff prompts``: a calibration set from a corpus of captions, and how large such a set must be."""

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


def study_command(
    study: Annotated[Path, typer.Argument(help="Folder of a finished calibration or ablation.", show_default=False)],
    sizes: Annotated[str, typer.Option("--sizes", help="Numbers of prompts.")] = "50,100,200,500,1000",
    delta: Annotated[
        float | None, typer.Option("--delta", help="Loss that you do not care about.  [default: the study's own]")
    ] = None,
    chance: Annotated[
        float, typer.Option("--chance", help="With which a set must pick a setting within delta of the best.")
    ] = 0.95,
    metric: Annotated[str, typer.Option("--metric", help="Of quality: clip, or scene where it was judged.")] = "clip",
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Of the draws.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The result, .json, with a .png beside it.  [default: in the study's folder]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Tell from a study's scores how large a calibration set must be to rank settings as all its prompts do.

    The paper's supplementary figure 3, for your own model; no image is made.

    Example: postdiff prompts study studies/shapes-ablation --delta 0.3
    """
    from postdiff_calib.jobs.prompt_sizes import PromptSizesJob, parse_sizes, run_prompt_sizes
    from postdiff_calib.report.studies import print_prompt_sizes

    job = PromptSizesJob(study, parse_sizes(sizes), metric, delta, chance, seed, out)
    print_prompt_sizes(run_prompt_sizes(job), job.result, as_json=as_json)
