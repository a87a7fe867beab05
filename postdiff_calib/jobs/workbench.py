"""A loaded model, a scorer, a judge where the model has one, and two prompt sets: what every stage measures with.

Calibration and its workers all build this one object, so that a score means the same in each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postdiff_calib.accelerate.compiled import CompileMode, announcement, compiled, count_kinds
from postdiff_calib.errors import PromptError
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.deployment import MODELS_OWN, DeploymentSettings
from postdiff_calib.scores.memory import BatchSize
from postdiff_calib.search.restrict import Restriction
from postdiff_calib.techniques.noise import DEFAULT_SWITCH, parse_noise, parse_switch

if TYPE_CHECKING:
    from postdiff_calib.models.card import Card
    from postdiff_calib.models.load import LoadedModel
    from postdiff_calib.models.shapes.judge import SceneJudge
    from postdiff_calib.prompts import PromptSet
    from postdiff_calib.quality.metric import Metric
    from postdiff_calib.quality.scorer import Scorer
    from postdiff_calib.scores.evaluator import ImageEvaluator
    from postdiff_calib.search.space import SearchSpace

#: Latent sides up to this are small images, of which more go into a batch.
_SMALL_SIDE, _SMALL_BATCH, _LARGE_BATCH = 96, 10, 4


@dataclass(frozen=True)
class Workbench:
    """What makes and scores images.

    Args:
        loaded: the model.
        scorer: of images against prompts.
        calibration, held_out: the two disjoint prompt sets.
        seed: of calibration prompt 0; prompt i has seed + i, held-out prompts are counted on behind them.
        settings: how images are made, whatever the plan.
        deployment: what was asked for of them beside the model's own.
        restrictions: of the search.
        batch: how many images turned out to fit into memory at a time.
        compile: how the denoiser is compiled inside ``compiled``.
        also: scorers that judge beside the one that is searched on.
    """

    loaded: LoadedModel
    scorer: Scorer
    calibration: PromptSet
    held_out: PromptSet
    seed: int
    settings: GenerationSettings
    deployment: DeploymentSettings = MODELS_OWN
    restrictions: tuple[Restriction, ...] = ()
    batch: BatchSize = field(default_factory=BatchSize)
    compile: CompileMode = "off"
    also: tuple[Scorer, ...] = ()

    @cached_property
    def space(self) -> SearchSpace:
        """The knobs that a search may set."""
        from postdiff_calib.search.space import SearchSpace

        card = self.loaded.card
        return SearchSpace.from_card(card, card.latent_size(), self.restrictions)

    @cached_property
    def judge(self) -> SceneJudge | None:
        """The judge of scenes, loaded once; None where the model has none or ``unjudged`` says why."""
        return judge_for(self.loaded.card, self._prompts, self.loaded.device)

    @cached_property
    def unjudged(self) -> str:
        """Why scenes are not judged although the model has a judge, as a line; empty where they are, or it has none."""
        return why_unjudged(self.loaded.card, self._prompts)

    @property
    def _prompts(self) -> tuple[str, ...]:
        return (*self.calibration.prompts, *self.held_out.prompts)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Quality metrics that are measured, the score first; names of ``quality.METRICS``."""
        listed = [m.name for m in metrics_of(self.loaded.card) if self.judge is not None or not m.judged]
        score, *judged = listed
        return (getattr(self.scorer, "metric", score), *judged, *(one.metric for one in self.also))

    @property
    def unembedded(self) -> str:
        """Why images are not compared as a set, as a line; empty where the scorer has embeddings."""
        if hasattr(self.scorer, "image_features"):
            return ""
        return f"CMMD is not measured: scorer {self.scorer.name} has no embeddings"

    @property
    def call_batch(self) -> int:
        """Images of the calls whose seconds are measured: as asked for, else one, as a server is asked for them.

        The embedded models make small images, which are asked for in batches; images of a search may be made in other
        batches, since they do not depend on it.
        """
        return self.deployment.batch_size or (self.settings.batch_size if self.loaded.card.embedded else 1)

    @property
    def held_out_seed(self) -> int:
        """Seed of the first held-out prompt."""
        return self.seed + len(self.calibration)

    def evaluator(
        self,
        prompts: PromptSet,
        base_seed: int,
        on_images: Callable[[int], None] | None = None,
        folder: Path | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> ImageEvaluator:
        """Makes and scores the images of a prompt set.

        Args:
            prompts: the set.
            base_seed: seed of prompt 0.
            on_images: hears of every batch's size.
            folder: of the study: there the baseline's images are kept, and others are measured against
                them; without it, images are scored and judged only.
            note: hears what a person should know, such as a batch that does not fit into memory.
        """
        from postdiff_calib.scores.evaluator import BaselineImages, ImageEvaluator
        from postdiff_calib.scores.names import BASELINE

        baseline = None
        if folder is not None:
            about = {"model": self.loaded.fingerprint, "dtype": self.loaded.dtype, **self.settings.of_images}
            about |= self._compiling | self._scheduler
            baseline = BaselineImages(folder / BASELINE, Knobs(self.loaded.card.num_inference_steps), about)
        return ImageEvaluator(
            self.loaded.pipe,
            self.scorer,
            prompts.prompts,
            base_seed,
            self.settings,
            on_images,
            baseline,
            self.judge,
            note,
            self.batch,
            self.also,
        )

    @cached_property
    def _pipeline(self) -> dict[str, str]:
        """What the model's own fingerprint, which is of networks and weights, leaves out; see ``LATER_KEYS``."""
        from postdiff_calib.models.fingerprint import configuration_of, fingerprint_tokenizers

        pipe = self.loaded.pipe
        return {
            "configuration": configuration_of(pipe),
            "scheduler": type(pipe.scheduler).__name__,
            "tokenizers": fingerprint_tokenizers(pipe),
        }

    def fingerprint(self) -> dict[str, Any]:
        """What a score depends on; a study made with anything else is refused."""
        return {
            "model": self.loaded.fingerprint,
            **self._pipeline,
            "prompts": self.calibration.sha256,
            "held_out": self.held_out.sha256,
            "scorer": self.scorer.fingerprint,
            **({"also": {one.metric: one.fingerprint for one in self.also}} if self.also else {}),
            **({"judge": self.judge.weights_sha256} if self.judge is not None else {}),
            "seed": self.seed,
            "dtype": self.loaded.dtype,
            **self.settings.of_images,
            **self._compiling,
            **self._scheduler,
            # the plan that all others are measured against
            **{name: value for name, value in self.deployment.asked.items() if name == "num_inference_steps"},
        }

    @property
    def _scheduler(self) -> dict[str, Any]:
        """What was asked for of the scheduler; the model's own goes without saying."""
        return {n: value for n, value in self.deployment.asked.items() if n in ("scheduler", "scheduler_config")}

    @property
    def _compiling(self) -> dict[str, Any]:
        """A compiled network rounds otherwise, so its scores are not mixed with others."""
        return {"compile": self.compile} if self.compile != "off" else {}

    @contextmanager
    def compiled(self, note: Callable[[str], None]) -> Iterator[None]:
        """The denoiser compiled for every plan of the space; ``note`` hears before what it takes, and after."""
        kinds = count_kinds(self.space.plans) if self.compile != "off" else 0
        if told := announcement(self.compile, kinds):
            note(told)
        with compiled(self.loaded.pipe, self.compile, kinds) as done:
            yield
            if told := done.describe():
                note(told)


def metrics_of(card: Card) -> tuple[Metric, ...]:
    """The quality metrics that a model can be measured by: those that need no judge, and those on its card."""
    from postdiff_calib.quality.metrics import quality_metrics

    return tuple(m for m in quality_metrics() if not m.judged or m.name in card.metrics)


def _has_judge(card: Card) -> bool:
    return any(m.judged for m in metrics_of(card))


def judge_for(card: Card, prompts: Sequence[str], device: str = "cpu") -> SceneJudge | None:
    """The model's judge of scenes; None where it has none, or a prompt is not one that the judge can read.

    Raises:
        ModelError: its weights are missing or damaged.
    """
    if not _has_judge(card) or why_unjudged(card, prompts):
        return None
    from postdiff_calib.models.shapes.judge import SceneJudge

    return SceneJudge(device=device)


def why_unjudged(card: Card, prompts: Sequence[str]) -> str:
    """Why a model's judge cannot be used on these prompts, as a line; empty where it can, or the model has none."""
    if not _has_judge(card):
        return ""
    from postdiff_calib.models.shapes.judge import require_captions
    from postdiff_calib.models.shapes.world import SIDE

    if (card.height, card.width) != (SIDE, SIDE):
        return f"scenes are not judged: the judge reads images of {SIDE}×{SIDE}, not {card.height}×{card.width}"
    try:
        require_captions(prompts)
    except PromptError as error:
        return f"scenes are not judged: {error.given}: {error.rule}"
    return ""


def generation_settings(
    card: Card, *, noise: str, deployment: DeploymentSettings, switch: str = DEFAULT_SWITCH
) -> GenerationSettings:
    """How images of a model are made.

    Args:
        card: with the deployment's settings, as a loaded model has it.
        noise: of low-resolution steps.
        deployment: what was asked for; a batch size that was left out suits the images' size.
        switch: how low-resolution steps get to full size.
    """
    small = max(card.latent_size()) <= _SMALL_SIDE
    return GenerationSettings(
        height=card.height,
        width=card.width,
        guidance_scale=card.guidance_scale,
        batch_size=deployment.batch_size or (_SMALL_BATCH if small else _LARGE_BATCH),
        noise=parse_noise(noise),
        switch=parse_switch(switch),
        latent_multiple=card.latent_multiple,
        negative_prompt=deployment.negative_prompt,
    )
