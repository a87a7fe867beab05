"""The scorers that ``postdiff scorers`` lists: those that are known by name, and whether this machine has them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from postdiff_calib.errors import PostdiffError
from postdiff_calib.quality.metrics import SCORER_LABELS
from postdiff_calib.quality.scorers import EMBEDDED, OUT_OF_PROCESS, place_of_open_clip


@dataclass(frozen=True)
class Listed:
    """A line of ``postdiff scorers``: how it is written, what it is, and why it is missing (empty where it is not)."""

    name: str
    about: str
    missing: str = ""


def listed() -> list[Listed]:
    """The scorers that are known by name, and whether this machine has them; nothing is fetched or loaded."""
    from postdiff_calib.models.card import VIT_B_32
    from postdiff_calib.quality.clip import REVISIONS
    from postdiff_calib.quality.preference import HPSV2, HPSV2_WEIGHTS, PICKSCORE, PICKSCORE_WEIGHTS

    (clip, revision), *_ = REVISIONS.items()
    weights = "open_clip_model.safetensors"
    found = [
        Listed(EMBEDDED, "CLIP model of the embedded models", _absent(lambda: place_of_open_clip(EMBEDDED))),
        Listed(VIT_B_32, "CLIP score by open_clip, the default", _uncached(clip, weights, revision)),
        Listed("pickscore", "PickScore, a CLIP model of preferences", _uncached(PICKSCORE, PICKSCORE_WEIGHTS)),
        Listed("hpsv2", "HPSv2.1, a CLIP model of preferences", _uncached(HPSV2, HPSV2_WEIGHTS)),
    ]
    outside = "it runs in a process of its own: NAME=command: PROGRAM …, see docs/scorers.md"
    found += [Listed(name, SCORER_LABELS[name], outside) for name in OUT_OF_PROCESS]
    found += [
        Listed("ARCH::tag, local-dir:/path", "any CLIP model by open_clip"),
        Listed("module:function, file.py:function", "your own function of images and prompts"),
        Listed("command: PROGRAM …", "your own process, JSON lines over pipes"),
    ]
    return found


def _absent(find: Callable[[], str]) -> str:
    try:
        folder = Path(find().partition(":")[2])
    except PostdiffError as error:
        return error.rule
    return "" if folder.is_dir() else f"{folder} is missing"


def _uncached(repository: str, file: str, revision: str | None = None) -> str:
    from huggingface_hub import try_to_load_from_cache

    from postdiff_calib.models.hub import cached_commit

    commit = revision or cached_commit(repository)
    with suppress(OSError, ValueError):
        if commit and isinstance(try_to_load_from_cache(repository, file, revision=commit), str):
            return ""
    return f"not in the Hugging Face cache: hf download {repository} {file} --revision {commit or 'COMMIT'}"
