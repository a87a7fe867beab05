"""What a caller brings along in the place of what a job would load: a live pipeline, prompts, a scorer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postdiff_calib.models.load import LoadedModel
    from postdiff_calib.prompts import PromptSet
    from postdiff_calib.quality.scorer import Scorer


@dataclass(frozen=True)
class Given:
    """Each is None where the job loads its own.

    Args:
        loaded: the model; the job's ``deployment`` stands on its card already.
        prompts: the prompt set to draw from.
        scorer: of images against prompts.
        also: scorers that judge beside it.
    """

    loaded: LoadedModel | None = None
    prompts: PromptSet | None = None
    scorer: Scorer | None = None
    also: tuple[Scorer, ...] | None = None


#: A job that loads everything itself.
NOTHING = Given()
