"""What the paper's own studies share: a list of settings × prompts, priced before it starts, kept in a folder.

The folder holds ``about.json``, all that its values depend on, beside the values themselves; the same command goes on
where a stopped one was, and a folder made with anything else is refused by what differs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postdiff_calib.cost.budget import format_macs
from postdiff_calib.errors import OutputError, StudyError, reason_of
from postdiff_calib.files import parse_json, refuse_output, require_writable, safe_name, write_atomically
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.profile.match import other_settings
from postdiff_calib.techniques.noise import DEFAULT_NOISE, parse_noise, parse_switch

if TYPE_CHECKING:
    from postdiff_calib.cost.table import CostTable
    from postdiff_calib.jobs.workbench import Workbench
    from postdiff_calib.models.card import Card
    from postdiff_calib.progress import Progress

ABOUT = "about.json"


@dataclass(frozen=True)
class PaperStudyJob:
    """What every such command is asked for.

    Attributes:
        model: a card's name, a local directory, or a hub id.
        prompts: a shipped set's name or a file; the model's own set where None.
        num_prompts: N; each command has a default of its own.
        seed: of prompt 0; prompt i has seed + i.
        study: folder of the study; None is one under ``studies/``.
        out: where the result goes as JSON, with a plot of the same name beside it; None is inside the folder.
        noise: of low-resolution steps.
        switch: how they get to full size; None is what suits the model's scheduler.
        device, dtype: ``auto`` or a name.
        batch_size: images per batch; 0 suits their size.
        fresh: start anew instead of going on.
    """

    model: str = "shapes"
    prompts: str | None = None
    num_prompts: int | None = None
    seed: int = 0
    study: Path | None = None
    out: Path | None = None
    noise: str = DEFAULT_NOISE
    switch: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 0
    fresh: bool = False

    def folder(self, kind: str) -> Path:
        """The study's folder."""
        return self.study or Path("studies") / f"{safe_name(self.model, 'model')}-{kind}"

    def result(self, kind: str) -> Path:
        """Where the result goes."""
        return self.out or self.folder(kind) / f"{kind}.json"

    def check_places(self, kind: str) -> None:
        """Refuse, before anything is loaded, places that cannot be written.

        Raises:
            OutputError: naming one.
        """
        folder = self.folder(kind)
        given = f"study folder {folder}"
        if os.path.lexists(folder) and not os.path.isdir(folder):
            raise OutputError(given, "it is not a folder", "give another (--study)")
        require_writable(folder, given, "give another (--study)")
        inputs = [self.prompts] if self.prompts is not None else []
        refuse_output(self.result(kind), inputs=inputs)
        if self.result(kind).name == ABOUT:
            raise OutputError(f"output {self.result(kind)}", f"{ABOUT} is a name of the study's own", "give another")


@dataclass(frozen=True)
class Price:
    """What a study will cost, told before it starts.

    Attributes:
        images: to be made.
        macs: of all of them, convention ``full``.
        baseline_images: as many images of the baseline cost the same.
    """

    images: int
    macs: float
    baseline_images: float

    def __str__(self) -> str:
        return (
            f"{self.images} images to make, {format_macs(self.macs)} in all, "
            f"as much as {self.baseline_images:.0f} images of the baseline"
        )


def price_of(settings: Sequence[tuple[Knobs, int]], table: CostTable, default_steps: int) -> Price:
    """The price of settings × prompts: (knobs, images still to be made) each."""
    whole = table.price(compile_plan(Knobs(default_steps))).macs
    macs = sum(count * table.price(compile_plan(knobs)).macs for knobs, count in settings)
    return Price(sum(count for _, count in settings), macs, macs / whole)


def card_of(job: PaperStudyJob) -> Card:
    """The model's card; the weights are loaded only where the name is not a card's.

    Raises:
        ModelError: there is no such model.
    """
    from postdiff_calib.models.cards import known_card
    from postdiff_calib.models.load import load_pipeline

    return known_card(job.model) or load_pipeline(job.model, device=job.device, dtype=job.dtype).card


def set_up(job: PaperStudyJob, default_prompts: int | None, progress: Progress) -> tuple[Workbench, str]:
    """Load the model and its scorer and draw the prompts: the ``held_out`` ones of the workbench are the study's.

    Returns the workbench and the hash of the whole prompt set; of a larger draw from it the smaller one is the front.

    Args:
        job: what was asked for.
        default_prompts: N where the job leaves it open; None is the model's own number.
        progress: hears of what is loaded.
    """
    from postdiff_calib.accelerate.low_res import way_of
    from postdiff_calib.jobs.workbench import Workbench, generation_settings
    from postdiff_calib.models.deployment import DeploymentSettings
    from postdiff_calib.models.load import load_pipeline
    from postdiff_calib.prompts import draw, load_prompt_set
    from postdiff_calib.prompts.draw import require_seed
    from postdiff_calib.quality.clip import ClipScorer

    require_seed(job.seed, 1_000_000)
    parse_noise(job.noise)
    if job.switch is not None:
        parse_switch(job.switch)
    progress.stage("loading the model")
    loaded = load_pipeline(job.model, device=job.device, dtype=job.dtype)
    for note in loaded.notes:
        progress.note(note)
    switch = way_of(loaded.pipe.scheduler, job.switch)
    card = loaded.card
    count = job.num_prompts or default_prompts or card.num_prompts
    prompt_set = load_prompt_set(job.prompts or card.prompt_set)
    calibration, prompts = draw(prompt_set, count, job.seed)
    deployment = DeploymentSettings(batch_size=job.batch_size or None)
    settings = generation_settings(card, noise=job.noise, switch=switch, deployment=deployment)
    scorer = ClipScorer(card.scorer, device=loaded.device)
    return Workbench(loaded, scorer, calibration, prompts, job.seed, settings), prompt_set.sha256


def about_study(kind: str, bench: Workbench, prompt_set: str) -> dict[str, Any]:
    """All that the values of a study depend on, beside its settings and its number of prompts.

    Args:
        kind: of study.
        bench: what images are made and scored with.
        prompt_set: hash of the whole prompt set.
    """
    known = {name: value for name, value in bench.fingerprint().items() if name not in ("prompts", "held_out")}
    return {"study": kind, "prompts": prompt_set, **known}


def claim(folder: Path, about: Mapping[str, Any], values: Sequence[str], *, fresh: bool) -> None:
    """Make a folder this study's own, or refuse another study's.

    Args:
        folder: the study's.
        about: what its values depend on.
        values: names of files of values, removed where the study starts anew.
        fresh: start anew.

    Raises:
        StudyError: the folder is of another study, or damaged.
    """
    path, remedy = folder / ABOUT, "use those again, another folder (--study), or start anew (--fresh)"
    if fresh:
        for name in values:
            (folder / name).unlink(missing_ok=True)
    elif os.path.lexists(path):
        try:
            known = parse_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise StudyError(
                f"study {path}", f"it cannot be read ({reason_of(error)})", "start anew (--fresh)"
            ) from error
        if not isinstance(known, dict) or (other := other_settings(known, about)):
            rule = "it was made with other settings" + (f": {other}" if isinstance(known, dict) else "")
            raise StudyError(f"study {folder}", rule, remedy)
    elif any(os.path.lexists(folder / name) for name in values):
        raise StudyError(f"folder {folder}", "it holds scores of something else", "give another (--study)")
    write_atomically(path, json.dumps(dict(about)) + "\n", f"study {path}", "give another folder (--study)")


def write_result(path: Path, data: Mapping[str, Any]) -> Path:
    """The result as JSON."""
    return write_atomically(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n", f"output {path}")
