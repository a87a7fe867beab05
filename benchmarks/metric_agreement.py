"""Do the CLIP score and an independent judge rank plans alike? Both metrics of the same images, plan by plan.

The embedded model's judge reads the scene off an image, so it says in how many images everything that the prompt names
is right. Plans are those of ``results/search_table.npz``: a number from each of five bands of cost, spread evenly over
the band, and a list of plans that people ask about, among them the whole step-reduction arm. Prompts, seeds and
settings are the table's own, so its CLIP scores can be compared with those of this run: see
``change_from_search_table`` in the JSON file.

Scores are kept plan by plan in a file outside the repository (``--work``), so a stopped run goes on where it was.

    python benchmarks/metric_agreement.py
    python benchmarks/metric_agreement.py --per-band 1 --num-prompts 20 --out /tmp/agreement

Results: ``metric_agreement.npz`` with ``knobs`` (JSON), ``macs``, ``clip`` and ``scene`` (plans, prompts),
``baseline`` (its row) and ``about`` (JSON); ``metric_agreement.json`` with what is computed from it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from importlib.metadata import version
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from postdiff_calib.cost.build import table_for_card
from postdiff_calib.generate import generate
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.load import load_pipeline
from postdiff_calib.models.shapes.judge import SceneJudge
from postdiff_calib.plan import compile_plan
from postdiff_calib.prompts import draw, load_prompt_set
from postdiff_calib.quality import check_health
from postdiff_calib.quality.clip import ClipScorer
from postdiff_calib.quality.health import HealthError
from postdiff_calib.scores.book import ScoreBook
from postdiff_calib.scores.measured import Measured
from postdiff_calib.scores.store import FileStore

RESULTS = Path(__file__).parent / "results"
#: The calibration draw of the search table; its first prompts are used here.
DRAWN, DRAW_SEED = 500, 0
#: Shares of the baseline's MACs.
BANDS = ((0.0, 0.15), (0.15, 0.25), (0.25, 0.4), (0.4, 0.6), (0.6, 1.0))
NAMED = (
    *(Knobs(steps) for steps in (4, 5, 6, 8, 10, 12, 13, 16)),
    Knobs(13, guidance_fraction=0.75),
    Knobs(20, cache_interval=2, guidance_fraction=0.9),
    Knobs(20, cache_interval=5),
    Knobs(20, guidance_fraction=0.3),
)
#: Prompts scored between two writes to the file.
BLOCK = 40
SPLITS = RESAMPLES = 1000
#: A difference of this many standard errors counts as significant (95 %).
SIGNIFICANT = 1.96
#: Plans that lose at most so many CLIP points are those that one would deploy; they are counted apart.
NEAR = 2.0


class Images:
    """The evaluator: makes the images of some prompts and measures them; the seed of prompt i is i."""

    def __init__(self, loaded, scorer, judge, prompts, batch_size) -> None:
        self.loaded, self.scorer, self.judge, self.prompts, self.batch_size = loaded, scorer, judge, prompts, batch_size

    def scores(self, knobs: Knobs, indices: list[int]) -> list[float]:
        """As ``evaluate.Evaluator``."""
        return list(self.measured(knobs, indices).scores)

    def measured(self, knobs: Knobs, indices: list[int]) -> Measured:
        """As ``evaluate.MeasuringEvaluator``: the CLIP scores, and ``scene`` beside them."""
        card = self.loaded.card
        texts = [self.prompts[i] for i in indices]
        settings = GenerationSettings(
            height=card.height,
            width=card.width,
            guidance_scale=card.guidance_scale,
            batch_size=self.batch_size,
            latent_multiple=card.latent_multiple,
        )
        images = torch.cat(list(generate(self.loaded.pipe, knobs, texts, list(indices), settings)))
        check_health(images, texts)
        return Measured(self.scorer.score(images, texts), {"scene": self.judge.score(images, texts)})


def choose(table: list[Knobs], price, baseline: Knobs, per_band: int) -> list[Knobs]:
    """The baseline, the named plans, then plans of the table until each band of cost has ``per_band``."""
    whole = price(compile_plan(baseline)).macs

    def share(knobs: Knobs) -> float:
        return price(compile_plan(knobs)).macs / whole

    chosen = {compile_plan(knobs).plan_id: knobs for knobs in (baseline, *NAMED)}
    for low, high in BANDS:
        inside = sum(low < share(knobs) <= high for knobs in chosen.values() if knobs != baseline)
        free = sorted((k for k in table if low < share(k) <= high), key=share)
        free = [k for k in free if compile_plan(k).plan_id not in chosen]
        missing = min(max(0, per_band - inside), len(free))
        first, last = (share(free[0]), share(free[-1])) if free else (low, high)
        for target in np.linspace(first, last, missing):  # evenly over the band's cost: the nearest that is left
            nearest = min(free, key=lambda k, target=target: abs(share(k) - target))
            free.remove(nearest)
            chosen[compile_plan(nearest).plan_id] = nearest
    first, *rest = chosen.values()
    return [first, *(rest[i] for i in np.random.default_rng(0).permutation(len(rest)))]


def mean_and_error(differences: np.ndarray) -> tuple[float, float]:
    return float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(len(differences)))


def spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    """Rank correlation; None where one of the two is constant or there are fewer than three plans."""
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(stats.spearmanr(first, second).statistic)


def rank_agreement(clip: np.ndarray, scene: np.ndarray) -> dict[str, object]:
    """Spearman correlation of the two mean differences over plans, and how far prompts alone would limit it.

    ``interval``: 95 % by resampling prompts. ``split_halves``: mean correlation between the ranks on one random half
    of the prompts and the ranks on the other, of each metric with itself and of the two metrics.
    """
    n, rng = clip.shape[1], np.random.default_rng(0)
    drawn = [rng.integers(0, n, n) for _ in range(RESAMPLES)]
    resampled = [spearman(clip[:, rows].mean(1), scene[:, rows].mean(1)) for rows in drawn]
    known = [value for value in resampled if value is not None]
    halves: dict[str, list[float]] = {"clip_clip": [], "scene_scene": [], "clip_scene": []}
    for _ in range(SPLITS):
        order = rng.permutation(n)
        a, b = order[: n // 2], order[n // 2 :]
        pairs = {
            "clip_clip": (clip[:, a], clip[:, b]),
            "scene_scene": (scene[:, a], scene[:, b]),
            "clip_scene": (clip[:, a], scene[:, b]),
        }
        for name, (x, y) in pairs.items():
            value = spearman(x.mean(1), y.mean(1))
            if value is not None:
                halves[name].append(value)
    return {
        "plans": len(clip),
        "spearman": spearman(clip.mean(1), scene.mean(1)),
        "interval": [float(v) for v in np.percentile(known, [2.5, 97.5])] if known else None,
        "split_halves": {name: float(np.mean(values)) if values else None for name, values in halves.items()},
    }


def pair_agreement(clip: np.ndarray, scene: np.ndarray) -> dict[str, int | float | None]:
    """How often two plans are ordered alike, over the pairs whose difference is significant by both metrics."""
    found = {"pairs": 0, "significant_clip": 0, "significant_scene": 0, "significant_both": 0, "agree": 0}
    for i, j in combinations(range(len(clip)), 2):
        found["pairs"] += 1
        signs = []
        for values, name in ((clip, "clip"), (scene, "scene")):
            mean, error = mean_and_error(values[i] - values[j])
            sure = abs(mean) > SIGNIFICANT * error
            found[f"significant_{name}"] += sure
            signs.append(np.sign(mean) if sure else 0)
        if all(signs):
            found["significant_both"] += 1
            found["agree"] += signs[0] == signs[1]
    found = {name: int(count) for name, count in found.items()}
    both = found["significant_both"]
    return {**found, "share": found["agree"] / both if both else None}


def summary(knobs: list[Knobs], macs: np.ndarray, clip: np.ndarray, scene: np.ndarray, baseline: int) -> dict:
    """Everything that the JSON file says of the two metrics, from their (plans, prompts) arrays."""
    clip, scene = clip.astype(np.float64), scene.astype(np.float64)
    share = macs / macs[baseline]
    gained, righted = clip - clip[baseline], scene - scene[baseline]
    others = np.flatnonzero(np.arange(len(knobs)) != baseline)
    delta = 0.01 * float(clip[baseline].mean())
    plans, correlations = [], []
    for i in sorted(others, key=lambda i: share[i]):
        moving = np.ptp(righted[i]) > 0 and np.ptp(gained[i]) > 0
        correlation = float(np.corrcoef(gained[i], righted[i])[0, 1]) if moving else None
        if correlation is not None:
            correlations.append(correlation)
        (clip_mean, clip_error), (scene_mean, scene_error) = mean_and_error(gained[i]), mean_and_error(righted[i])
        plans.append(
            {
                "knobs": knobs[i].describe(),
                "share": float(share[i]),
                "clip": clip_mean,
                "clip_error": clip_error,
                "scene": scene_mean,
                "scene_error": scene_error,
                "correlation": correlation,
            }
        )
    fewer = [p for p in plans if -p["scene"] > SIGNIFICANT * p["scene_error"]]
    unseen = [p["knobs"] for p in fewer if abs(p["clip"]) <= delta]
    opposed = [p["knobs"] for p in fewer if p["clip"] > SIGNIFICANT * p["clip_error"]]
    bands = []
    for low, high in BANDS:
        rows = [i for i in others if low < share[i] <= high]
        if len(rows) >= 3:
            band = {"share": [low, high], **rank_agreement(gained[rows], righted[rows])}
            bands.append({**band, "pairs": pair_agreement(clip[rows], scene[rows])})
    near = [i for i in others if gained[i].mean() >= -NEAR]
    quantiles = np.percentile(correlations, [0, 25, 50, 75, 100]) if correlations else []
    return {
        "num_plans": len(others),
        "num_prompts": clip.shape[1],
        "baseline": {
            "clip": float(clip[baseline].mean()),
            "scene": float(scene[baseline].mean()),
            "scene_error": mean_and_error(scene[baseline])[1],
        },
        "overall": {
            **rank_agreement(gained[others], righted[others]),
            "pairs": pair_agreement(clip[others], scene[others]),
        },
        "near": {
            "largest_clip_loss": NEAR,
            **rank_agreement(gained[near], righted[near]),
            "pairs": pair_agreement(clip[near], scene[near]),
        },
        "bands": bands,
        "paired_correlation": {
            "plans": len(correlations),
            **dict(zip(("least", "q1", "median", "q3", "most"), map(float, quantiles), strict=False)),
        },
        "delta": delta,
        "within_delta_by_clip": sum(abs(p["clip"]) <= delta for p in plans),
        "of_these_with_fewer_scenes": unseen,
        "higher_clip_and_fewer_scenes": opposed,
        "plans": plans,
    }


def change_from(table, knobs: list[Knobs], clip: np.ndarray) -> dict[str, float | int] | None:
    """Largest and mean change of a CLIP score from the search table's, over plans and prompts that both have."""
    rows = {compile_plan(Knobs.from_dict(k)).plan_id: i for i, k in enumerate(json.loads(str(table["knobs"])))}
    pairs = [(i, rows[plan_id]) for i, k in enumerate(knobs) if (plan_id := compile_plan(k).plan_id) in rows]
    if not pairs:
        return None
    mine, theirs = (np.array(part) for part in zip(*pairs, strict=True))
    change = np.abs(clip[mine].astype(np.float64) - table["scores"][theirs, : clip.shape[1]])
    return {"plans": len(pairs), "largest": float(change.max()), "mean": float(change.mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-prompts", type=int, default=240, help="the first of the draw")
    parser.add_argument("--per-band", type=int, default=14, help="plans of each band of cost, the named ones included")
    parser.add_argument("--batch-size", type=int, default=10)
    parser.add_argument("--table", type=Path, default=RESULTS / "search_table.npz")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "metric_agreement.scores.jsonl")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the two result files")
    options = parser.parse_args()

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    loaded = load_pipeline("shapes", device="cpu", dtype="auto")
    card = loaded.card
    scorer, judge = ClipScorer(card.scorer), SceneJudge()
    prompts, _ = draw(load_prompt_set(card.prompt_set), DRAWN, DRAW_SEED)
    prompts = prompts.prompts[: options.num_prompts]
    table = np.load(options.table)
    baseline = Knobs(card.num_inference_steps)
    price = table_for_card(card).price
    known = [Knobs.from_dict(k) for k in json.loads(str(table["knobs"]))]
    plans = choose(known, price, baseline, options.per_band)

    evaluator = Images(loaded, scorer, judge, prompts, options.batch_size)
    book = ScoreBook(evaluator, len(prompts), baseline, FileStore(options.work))
    for number, knobs in enumerate(plans, 1):
        plan_id = compile_plan(knobs).plan_id
        try:
            for start in range(0, len(prompts), BLOCK):
                book.scores(knobs, range(start, min(start + BLOCK, len(prompts))))
        except HealthError as error:
            print(f"{number}/{len(plans)} {knobs.describe()} {error}", flush=True)
            continue
        means = f"{book.known(plan_id).mean():.3f} {book.measures(plan_id, 'scene').mean():.1f}"
        print(f"{number}/{len(plans)} {knobs.describe()} {means}", flush=True)

    plan_ids = {compile_plan(k).plan_id: k for k in plans if book.complete(compile_plan(k).plan_id)}
    kept = list(plan_ids.values())
    macs = np.array([price(compile_plan(k)).macs for k in kept])
    clip = np.array([book.known(c) for c in plan_ids], dtype=np.float32)
    scene = np.array([book.measures(c, "scene") for c in plan_ids]).astype(np.uint8)
    row = list(plan_ids).index(book.baseline)
    about = {
        "model": "shapes",
        "fingerprint": loaded.fingerprint,
        "scorer_sha256": scorer.weights_sha256,
        "judge_sha256": judge.weights_sha256,
        "prompts": f"the first {len(prompts)} of draw({card.prompt_set}, {DRAWN}, {DRAW_SEED}); seed = index",
        "batch_size": options.batch_size,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in ("postdiff", "torch", "diffusers", "open_clip_torch", "numpy")},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        options.out / "metric_agreement.npz",
        knobs=json.dumps([k.as_dict() for k in kept]),
        macs=macs,
        clip=clip,
        scene=scene,
        baseline=row,
        about=json.dumps(about),
    )
    result = {
        "about": about,
        "change_from_search_table": change_from(table, kept, clip),
        **summary(kept, macs, clip, scene, row),
    }
    (options.out / "metric_agreement.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{options.out}: {len(kept)} plans × {len(prompts)} prompts, {book.images_made} images made")


if __name__ == "__main__":
    main()
