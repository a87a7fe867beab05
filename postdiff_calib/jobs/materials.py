"""Prompts and scorers of a calibration: loaded, and refused, before the model's weights are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from postdiff_calib.errors import PromptError
from postdiff_calib.jobs.given import Given
from postdiff_calib.jobs.job import LEAST_PROMPTS, CalibrateJob
from postdiff_calib.jobs.profile_scorers import loaded_scorers
from postdiff_calib.models.card import Card
from postdiff_calib.quality.scorers import close_scorers, try_functions

if TYPE_CHECKING:
    from postdiff_calib.prompts import PromptSet
    from postdiff_calib.quality.scorer import Scorer


@dataclass(frozen=True)
class Materials:
    """What images are made of and scored with.

    Args:
        prompt_set: what is drawn from.
        calibration, held_out: the two disjoint draws.
        scorer: of images against prompts.
        also: scorers that judge beside it.
    """

    prompt_set: PromptSet
    calibration: PromptSet
    held_out: PromptSet
    scorer: Scorer
    also: tuple[Scorer, ...] = ()


def materials_of(job: CalibrateJob, given: Given) -> Materials:
    """Draw the prompts and load the scorers.

    Raises:
        PromptError: the set cannot be read, or too few prompts are asked for or there.
        ModelError: there is no such model, device or scorer, or the model is on the hub and no commit of it is known.
        UnsupportedError: the model's pipeline class is not supported.
    """
    from postdiff_calib.models.load import pick_device, refuse_other_class
    from postdiff_calib.models.place import place_of
    from postdiff_calib.prompts import Columns, draw, load_prompt_set
    from postdiff_calib.quality.scorers import parse_scorer

    # A model without a card has the usual set and scorer.
    known = given.loaded if given.loaded is not None else place_of(job.model, job.deployment)
    if given.loaded is None:
        refuse_other_class(job.model, job.deployment)
    card: Card | type[Card] = known.card or Card
    device = given.loaded.device if given.loaded is not None else pick_device(job.device)
    if isinstance(job.num_prompts, int) and job.num_prompts < LEAST_PROMPTS:
        rule = f"at least {LEAST_PROMPTS} must judge, and a calibration searches on half as many more"
        raise PromptError(f"num_prompts={job.num_prompts}", rule, "give more prompts")
    prompt_set = given.prompts or load_prompt_set(job.prompts or card.prompt_set, Columns(job.column, job.category))
    calibration, held_out = draw(prompt_set, job.num_prompts or card.num_prompts, job.seed)
    own = card.scorer if job.scorer is None or given.scorer is not None else job.scorer
    named = [parse_scorer(own), *(parse_scorer(text, "--also") for text in job.also)]
    scorer, *also = loaded_scorers(named, device, given)
    if known.card is not None:
        size = job.deployment.height or known.card.height, job.deployment.width or known.card.width
        brought = {id(one) for one in (given.scorer, *(given.also or ()))}
        try:
            try_functions([one for one in (scorer, *also) if id(one) not in brought], size)
        except BaseException:
            close_scorers((scorer, *also))
            raise
    return Materials(prompt_set, calibration, held_out, scorer, tuple(also))
