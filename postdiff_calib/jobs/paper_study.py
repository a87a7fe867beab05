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
from postdiff_calib.files import finite, parse_json, refuse_result, require_writable, safe_name, write_atomically
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.profile.match import other_settings
from postdiff_calib.scores.names import DATABASE, HELD_OUT, SHARED_DATABASE
from postdiff_calib.study.record import RECORD
from postdiff_calib.techniques.noise import DEFAULT_NOISE, parse_noise, parse_switch

if TYPE_CHECKING:
    from postdiff_calib.cost.table import CostTable
    from postdiff_calib.jobs.workbench import Workbench
    from postdiff_calib.models.card import Card
    from postdiff_calib.progress import Progress

ABOUT = "about.json"
#: Files that a calibration's folder holds, and no other study's.
_CALIBRATION = (RECORD, DATABASE, SHARED_DATABASE, HELD_OUT)


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

    def check_places(self, kind: str, values: Sequence[str], inputs: Sequence[Path] = ()) -> None:
        """Refuse, before anything is loaded, places that cannot be written or are another study's.

        Args:
            kind: of study.
            values: names of its files of values.
            inputs: files that it reads beside its prompts.

        Raises:
            OutputError: a place cannot be written.
            StudyError: the folder is another study's.
        """
        check_folder(self.folder(kind), kind, values, fresh=self.fresh)
        prompts = [self.prompts] if self.prompts is not None else []
        refuse_result(self.result(kind), inputs=[*prompts, *inputs], study=self.folder(kind))


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
    """Draw the prompts and load the scorer, then the model: the ``held_out`` ones of the workbench are the study's.

    Returns the workbench and the hash of the whole prompt set; of a larger draw from it the smaller one is the front.

    Args:
        job: what was asked for.
        default_prompts: N where the job leaves it open; None is the model's own number.
        progress: hears of what is loaded.
    """
    from postdiff_calib.accelerate.low_res import way_of
    from postdiff_calib.jobs.workbench import Workbench, generation_settings
    from postdiff_calib.models.card import Card
    from postdiff_calib.models.deployment import DeploymentSettings
    from postdiff_calib.models.load import load_pipeline, pick_device, refuse_other_class
    from postdiff_calib.models.place import place_of
    from postdiff_calib.prompts import draw, load_prompt_set
    from postdiff_calib.prompts.draw import require_seed
    from postdiff_calib.quality.clip import ClipScorer

    require_seed(job.seed, 1_000_000)
    parse_noise(job.noise)
    if job.switch is not None:
        parse_switch(job.switch)
    refuse_other_class(job.model)
    # A model without a card has the usual set and scorer.
    known: Card | type[Card] = place_of(job.model).card or Card
    count = job.num_prompts or default_prompts or known.num_prompts
    prompt_set = load_prompt_set(job.prompts or known.prompt_set)
    calibration, prompts = draw(prompt_set, count, job.seed)
    scorer = ClipScorer(known.scorer, device=pick_device(job.device))
    progress.stage("loading the model")
    loaded = load_pipeline(job.model, device=job.device, dtype=job.dtype)
    for note in loaded.notes:
        progress.note(note)
    switch = way_of(loaded.pipe.scheduler, job.switch)
    deployment = DeploymentSettings(batch_size=job.batch_size or None)
    settings = generation_settings(loaded.card, noise=job.noise, switch=switch, deployment=deployment)
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


def check_folder(folder: Path, kind: str, values: Sequence[str], *, fresh: bool, option: str = "--study") -> None:
    """Refuse, before anything is loaded or locked, a folder that cannot be written or that is another study's.

    Args:
        folder: the study's; it need not be there yet.
        kind: of study.
        values: names of its files of values, ``*`` standing for anything.
        fresh: start anew; a folder that holds a calibration or another kind of study is refused all the same.
        option: the one that names the folder.

    Raises:
        OutputError: no file can be made there.
        StudyError: it is of a calibration, of another kind of study or damaged, or it holds scores of something else.
    """
    given, remedy = f"study folder {folder}", f"give another ({option})"
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise OutputError(given, "it is not a folder", remedy)
    require_writable(folder, given, remedy)
    if any(os.path.lexists(folder / name) for name in _CALIBRATION):
        raise StudyError(given, "it holds a calibration", remedy)
    refuse_other_kind(folder, kind, fresh=fresh, remedy=remedy)
    if not (fresh or os.path.lexists(folder / ABOUT)) and any(next(folder.glob(name), None) for name in values):
        raise StudyError(given, "it holds scores of something else", remedy)


def refuse_other_kind(folder: Path, kind: str, *, fresh: bool, remedy: str = "give another (--study)") -> None:
    """Refuse a folder whose ``about.json`` is of another kind of study.

    Args:
        folder: of a study; it need not be there yet.
        kind: of study that is wanted there.
        fresh: a damaged file is passed over: it is written anew.
        remedy: what to do.

    Raises:
        StudyError: it is of another kind, or what it says cannot be read.
    """
    try:
        known = _about(folder)
    except StudyError:
        if fresh:
            return
        raise
    if known is not None and known.get("study") != kind:
        raise StudyError(f"study folder {folder}", f"it holds another kind of study ({known.get('study')})", remedy)


def _about(folder: Path) -> dict[str, Any] | None:
    """What a study's folder says that it is of; None where it says nothing.

    Raises:
        StudyError: what it says cannot be read.
    """
    path, remedy = folder / ABOUT, "start anew (--fresh)"
    if not os.path.lexists(path):
        return None
    try:
        known = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StudyError(f"study {path}", f"it cannot be read ({reason_of(error)})", remedy) from error
    if not isinstance(known, dict):
        raise StudyError(f"study {path}", "it does not say what the study is of", remedy)
    return known


def claim(folder: Path, about: Mapping[str, Any], values: Sequence[str], *, fresh: bool) -> None:
    """Make a folder that ``check_folder`` accepted this study's own, or refuse one made with other settings.

    Args:
        folder: the study's.
        about: what its values depend on.
        values: names of files of values, ``*`` standing for anything; all are removed where the study starts anew.
        fresh: start anew.

    Raises:
        StudyError: the folder's study was made with other settings, or is damaged.
    """
    if fresh:
        for old in [path for name in values for path in folder.glob(name)]:
            old.unlink(missing_ok=True)
    elif (known := _about(folder)) is not None and (other := other_settings(known, about)):
        remedy = "use those again, another folder (--study), or start anew (--fresh)"
        raise StudyError(f"study {folder}", f"it was made with other settings: {other}", remedy)
    path = folder / ABOUT
    write_atomically(path, json.dumps(dict(about)) + "\n", f"study {path}", "give another folder (--study)")


def write_result(path: Path, data: Mapping[str, Any]) -> Path:
    """The result as JSON; a number that is not finite is null."""
    return write_atomically(path, json.dumps(finite(data), indent=1, ensure_ascii=False) + "\n", f"output {path}")
