"""Study F: mixed-resolution fine-tuning of a model's denoiser, priced before it starts and resumable.

Stages: model and data → refuse what does not fit → train, or go on training → write the averaged weights. Under
``accelerate launch`` every process runs this; the first one keeps the state and writes the result.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postdiff_calib.cost.budget import format_macs
from postdiff_calib.errors import ModelError, OutputError, PostdiffError, UsageError, reason_of
from postdiff_calib.files import StudyLock, require_writable, safe_name, write_atomically
from postdiff_calib.jobs.paper_study import check_folder, claim
from postdiff_calib.jobs.stopped import saying_what_is_kept
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.tuning.asked import STATE, Tuning
from postdiff_calib.plan import compile_plan
from postdiff_calib.progress import Progress, Silent
from postdiff_calib.prompts.formats import Columns

if TYPE_CHECKING:
    from accelerate import Accelerator

    from postdiff_calib.models.card import Card
    from postdiff_calib.models.load import LoadedModel

KIND, RESULT = "finetune", "finetune.json"
#: Backward passes cost about twice a forward pass (Kaplan et al. 2020, arXiv 2001.08361, section 2.1).
_FORWARDS = 3


@dataclass(frozen=True)
class FinetuneJob:
    """What ``postdiff finetune`` was asked for.

    Attributes:
        model: a card's name, a local directory, or a hub id.
        data: images with captions; None is the embedded models' own world.
        column: of the captions, where it has no usual name.
        steps: of the optimizer, in all; more than were made go on.
        tuning: how.
        work: folder of the state; None is one under ``studies/``.
        out: folder of the result; None is ``out`` inside that.
        device: ``auto``, ``cpu`` or ``cuda``.
        gradient_checkpointing: less memory for more time.
        workers: processes that read images ahead.
        save_every: steps between states.
        fresh: start anew instead of going on.
    """

    model: str = "shapes"
    data: Path | None = None
    column: str | None = None
    steps: int = 15_000
    tuning: Tuning = field(default_factory=Tuning)
    work: Path | None = None
    out: Path | None = None
    device: str = "auto"
    gradient_checkpointing: bool = False
    workers: int = 0
    save_every: int = 500
    fresh: bool = False

    @property
    def folder(self) -> Path:
        """Where the state is kept."""
        return self.work or Path("studies") / f"{safe_name(self.model, 'model')}-{KIND}"

    @property
    def result(self) -> Path:
        """Where the pipeline, or the LoRA, goes."""
        return self.out or self.folder / "out"


@dataclass(frozen=True)
class FinetunePrice:
    """What a fine-tuning will cost.

    Attributes:
        images: samples to be seen, some of them smaller.
        macs: of the denoiser, convention ``full``, a backward pass counted as two forward ones.
    """

    images: int
    macs: float

    def __str__(self) -> str:
        return f"{self.images:,} images to train on, about {format_macs(self.macs)} in the denoiser"


@dataclass(frozen=True)
class Finetuned:
    """A finished fine-tuning.

    Attributes:
        written: the pipeline's folder, or the LoRA's file.
        losses: (step, mean loss of the steps before it).
        data: numbers of samples and where they came from.
    """

    model: str
    steps: int
    written: Path
    losses: list[tuple[int, float]]
    tuning: Tuning
    data: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "study": KIND,
            "model": self.model,
            "steps": self.steps,
            "written": self.written.name,
            "data": self.data,
            "tuning": self.tuning.as_dict(),
            "losses": [list(pair) for pair in self.losses],
        }


def price_finetune(job: FinetuneJob) -> FinetunePrice:
    """What the whole fine-tuning costs; nothing is trained."""
    from postdiff_calib.cost.build import table_for_card
    from postdiff_calib.models.cards import known_card
    from postdiff_calib.models.load import load_pipeline

    card = known_card(job.model) or load_pipeline(job.model).card
    _check(job, card)
    table, tuning = table_for_card(card), job.tuning

    def of(knobs: Knobs) -> float:
        # a step of sampling has two halves where the model guides; training has one
        return table.price(compile_plan(knobs)).macs / (2 if table.guides else 1)

    full, images = of(Knobs(1)), job.steps * tuning.batch_size
    low = of(Knobs(2, low_res_fraction=0.5, low_res_scale=tuning.low_res_scale)) - full if _mixed(tuning) else full
    share = tuning.low_res_fraction
    return FinetunePrice(images, _FORWARDS * images * (share * low + (1 - share) * full))


def _mixed(tuning: Tuning) -> bool:
    return tuning.low_res_fraction > 0


def _check(job: FinetuneJob, card: Card) -> None:
    """Refuse what is known to fail before anything is loaded."""
    from postdiff_calib.models.tuning.objective import low_side, require_tunable

    require_tunable(card.pipeline_class)
    if _mixed(job.tuning):
        low_side(card, job.tuning.low_res_scale)
    if job.data is None and not card.embedded:
        raise UsageError(
            "--data",
            f"{card.name} has no images of its own",
            "give a folder, .tar or .parquet of images with captions",
        )
    if job.steps < 1:
        raise UsageError(f"--steps {job.steps}", "it must be at least 1", "take such as 15000")


def run_finetune(job: FinetuneJob, progress: Progress | None = None) -> Finetuned:
    """Fine-tune, or go on; writes the averaged weights.

    Raises:
        PostdiffError: bad input, by one line; the state is kept.
    """
    from postdiff_calib.models.cards import known_card
    from postdiff_calib.models.load import load_pipeline
    from postdiff_calib.models.tuning.loop import accelerator_for

    progress, folder = progress or Silent(), job.folder
    accelerator = accelerator_for(job.device, job.tuning.accumulation)
    with ExitStack() as stack:
        stack.enter_context(saying_what_is_kept(folder, [STATE], fresh=job.fresh))
        with _together(accelerator):
            _require_device(job.device, accelerator)
            check_folder(folder, KIND, [STATE], fresh=job.fresh, option="--work")
            _check_result(job)
            if (known := known_card(job.model)) is not None:
                _check(job, known)
            job.tuning.part(accelerator.num_processes)
            lock = stack.enter_context(StudyLock(folder)) if accelerator.is_main_process else None
            progress.stage("loading the model")
            loaded = load_pipeline(job.model, device=str(accelerator.device), dtype="float32")
            _check(job, loaded.card)
            samples, data = _samples(job, loaded.card)
            if lock is not None:
                lock.take()
                about = {"study": KIND, "model": loaded.fingerprint, "data": data, **job.tuning.as_dict()}
                if job.data is not None:
                    about["data_hash"] = samples.fingerprint
                claim(folder, about, [STATE], fresh=job.fresh)
        return _trained(job, loaded, samples, data, (accelerator, progress))


def _require_device(device: str, accelerator: Accelerator) -> None:
    """Refuse a device that accelerate would pass over without a word.

    Raises:
        ModelError: torch cannot use it, or accelerate takes another.
    """
    import torch

    from postdiff_calib.models.load import pick_device

    kind = torch.device(pick_device(device)).type
    if device != "auto" and kind != accelerator.device.type:
        raise ModelError(f"device {device!r}", f"accelerate takes {accelerator.device}", "take auto, cpu or cuda")


def _check_result(job: FinetuneJob) -> None:
    """Refuse a folder for the result that cannot be written, or in which something else would be lost.

    Raises:
        OutputError: it cannot be made, is the model's or the data's own, or holds what no fine-tuning wrote.
    """
    given, remedy = f"output {job.result}", "give another (--out)"
    if os.path.lexists(job.result) and not os.path.isdir(job.result):
        raise OutputError(given, "it is not a folder", remedy)
    require_writable(job.result, given, remedy)
    out = Path(os.path.realpath(job.result))
    for source in (job.model, job.data):
        if source is not None and os.path.exists(source):
            own = Path(os.path.realpath(source))
            if out == own or own in out.parents:
                raise OutputError(given, f"it is in an input of this command ({source})", remedy)
    if os.path.isdir(out) and os.listdir(out) and not (out / RESULT).is_file():
        raise OutputError(given, "it holds files that no fine-tuning wrote", remedy)


@contextmanager
def _filling(folder: Path) -> Iterator[Path]:
    """A new folder beside another, whose files take their places in that one when the block ends, each whole.

    Of an earlier result only the denoiser differs, so that one is never mixed with the new one's parts to its harm.

    Raises:
        OutputError: they cannot be written.
    """
    from safetensors import SafetensorError

    folder = Path(os.path.realpath(folder))
    new = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(new, ignore_errors=True)
    try:
        yield new
        if not folder.exists():
            new.rename(folder)
            return
        for path in sorted(path for path in new.rglob("*") if path.is_file()):
            place = folder / path.relative_to(new)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)
    except (OSError, SafetensorError) as error:
        rule = f"it cannot be written ({reason_of(error)})"
        raise OutputError(f"output {folder}", rule, "give another (--out); the state is kept") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def speaks() -> bool:
    """Whether this process is the one that shows progress and results: the first of those that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def _together(accelerator: Accelerator) -> Iterator[None]:
    """A block that all processes leave together: what one refuses ends all, and the first process says it.

    Raises:
        PostdiffError: in the first process.
        SystemExit: in the others, with the exit code of the error.
    """
    from accelerate.utils import gather_object

    own = None
    try:
        yield
    except PostdiffError as error:
        if accelerator.num_processes == 1:
            raise
        own = error
    if accelerator.num_processes == 1:
        return
    if (first := next((error for error in gather_object([own]) if error is not None), None)) is not None:
        accelerator.end_training()
        if accelerator.is_main_process:
            raise first
        raise SystemExit(first.exit_code)


def _samples(job: FinetuneJob, card: Card) -> tuple[Any, str]:
    """What is trained on, and a line that says what it is."""
    from postdiff_calib.models.tuning.samples import Samples, WorldSamples, open_source

    if job.data is None:
        return WorldSamples(job.tuning.seed), f"new scenes of {card.name}'s own world"
    source = open_source(job.data, Columns(job.column))
    samples = Samples(source, job.tuning.seed, card.height, card.width)
    return samples, f"{samples.count} images of {job.data.name}"


def _trained(
    job: FinetuneJob, loaded: LoadedModel, samples: Any, data: str, at: tuple[Accelerator, Progress]
) -> Finetuned:
    from postdiff_calib.models.tuning.loop import Tuner, side_of, write_lora, write_pipeline
    from postdiff_calib.models.tuning.objective import objective_of

    accelerator, progress = at
    objective = objective_of(loaded.pipe)
    if job.gradient_checkpointing:
        objective.network.enable_gradient_checkpointing()
    with _together(accelerator):
        tuner = Tuner(objective, job.tuning, accelerator, job.folder)
    if tuner.done:
        progress.note(f"going on after {tuner.done} steps")
    tuner.run(
        samples,
        job.steps,
        side_of(loaded.card, job.tuning),
        workers=job.workers,
        save_every=job.save_every,
        progress=progress,
    )
    tuner.use_average()
    written = job.result / "lora.safetensors" if job.tuning.lora_rank else job.result
    result = Finetuned(job.model, tuner.done, written, tuner.losses, job.tuning, data)
    if accelerator.is_main_process:
        write = write_lora if job.tuning.lora_rank else write_pipeline
        with _filling(job.result) as new:
            write(objective, new)
            text = json.dumps(result.as_dict(), indent=1, ensure_ascii=False) + "\n"
            write_atomically(new / RESULT, text)
    accelerator.wait_for_everyone()
    if accelerator.num_processes > 1:
        accelerator.end_training()
    return result
