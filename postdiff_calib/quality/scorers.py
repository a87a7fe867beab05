"""Scorers are plug-ins: which there are, how one is named on the command line, and how it is loaded.

A scorer maps images (B, 3, H, W) float in [0, 1] and B prompts to B numbers. It has a name, a direction and a
fingerprint, by which scores of another scorer are told apart. The forms of a name:

| written | is |
| --- | --- |
| ``ARCH::tag``, ``local-dir:/path`` | a CLIP model by open_clip (``quality.clip``) |
| ``pickscore``, ``hpsv2``, with ``:place`` or without | models of people's preferences (``quality.preference``) |
| ``module:function``, ``file.py:function`` | a function of the user's own: (images, prompts) → B numbers |
| ``command: PROGRAM …`` | a process of its own (``quality.command``) |

Its metric is called by what is written: ``clip`` for the open_clip model that a search improves, else the known name,
the function's or the script's; ``NAME=`` before any form gives another. So guards and δ are checked before anything is
loaded. Everything in postdiff takes more to be better: values of the other direction are turned round.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from postdiff_calib.errors import ModelError, PostdiffError, ScorerError, UsageError, one_line, reason_of
from postdiff_calib.files.named import fingerprint_of, load_function, names_function
from postdiff_calib.quality.command import CommandScorer, command_of
from postdiff_calib.quality.metric import Metric
from postdiff_calib.quality.metrics import SCORE, SCORER_LABELS, SCORER_NAME, metric, metrics, quality_metrics
from postdiff_calib.quality.scorer import Direction, Scorer

if TYPE_CHECKING:
    import torch

Kind = Literal["open_clip", "pickscore", "hpsv2", "function", "command", "given"]
#: Scorers whose packages do not install beside this one; they run in a process of their own.
OUT_OF_PROCESS = ("imagereward", "hpsv3", "vqascore")
#: Name of the embedded models' scorer in files.
EMBEDDED = "shapes"
_EMBEDS = ("open_clip", "pickscore", "hpsv2")
_EXAMPLES = "such as ViT-L-14::openai, pickscore, my_module:my_function or 'command: /venv/bin/python my_scorer.py'"
_NAMED = re.compile(r"([A-Za-z][A-Za-z0-9_]*)=(.+)", re.ASCII | re.DOTALL)


@dataclass(frozen=True)
class ScorerName:
    """A scorer as it is written, read but not loaded.

    Args:
        text: as written.
        source: without the name of its metric.
        kind: what it is.
        metric: name of its metric.
    """

    text: str
    source: str
    kind: Kind
    metric: str

    @property
    def embeds(self) -> bool:
        """Whether it has embeddings, by which CMMD is measured; of an object that was given, it is not known yet."""
        return self.kind in (*_EMBEDS, "given")

    @property
    def shown(self) -> Metric:
        """Its metric."""
        return metric(self.metric)

    def of_a_file(self, option: str) -> ScorerName:
        """The scorer itself, where its name comes from a file and not from a person, and loading it runs no code.

        Args:
            option: by which a person names it.

        Raises:
            UsageError: it is a function or a command, which only a person's own word lets run.
        """
        if self.kind in ("function", "command"):
            rule = "it is code, which does not run because a file names it"
            raise UsageError(f"scorer {self.text}", rule, f"look at it, then name it yourself: {option} '{self.text}'")
        return self


def parse_scorer(text: str, option: str = "--scorer") -> ScorerName:
    """Read one scorer; see the module for the forms.

    Raises:
        UsageError: no such form, or a name that is another metric's.
        ModelError: a command without a program.
    """
    given = f"{option} {text}"
    named = _NAMED.fullmatch(text)
    name, source = (named[1].lower(), named[2].strip()) if named else ("", text.strip())
    kind = _kind(given, source)
    name = name or (SCORE if kind == "open_clip" and option == "--scorer" else _own_name(kind, source))
    score = option == "--scorer" and kind in ("open_clip", "given")
    taken = [m.name for m in metrics() if m.name != SCORE or not score]
    if name in taken:
        raise UsageError(given, f"{name} is another metric's name", f"give it one: {option} 'NAME={source}'")
    return ScorerName(text, source, kind, name)


def parse_scorers(scorer: str | None, also: Iterable[str]) -> tuple[ScorerName | None, tuple[ScorerName, ...]]:
    """The scorer that is searched on, None for the model's own, and those that judge beside it.

    Raises:
        UsageError: as ``parse_scorer``; or two scorers of one name.
    """
    first = None if scorer is None else parse_scorer(scorer)
    others = tuple(parse_scorer(text, "--also") for text in also)
    seen = {SCORE if first is None else first.metric}
    for one in others:
        if one.metric in seen:
            remedy = f"give it another: --also 'NAME={one.source}'"
            raise UsageError(f"--also {one.text}", f"a second scorer is called {one.metric}", remedy)
        seen.add(one.metric)
    return first, others


def measured_by(scorer: str | None, also: Iterable[str] = ()) -> tuple[Metric, ...]:
    """The quality metrics that images are measured by, the score first: those of the list and of the scorers.

    Args:
        scorer: that is searched on, as written; None for the model's own.
        also: that judge beside it.

    Raises:
        UsageError: as ``parse_scorers``.
    """
    first, others = parse_scorers(scorer, also)
    score = metric(SCORE) if first is None else first.shown
    return (score, *(m for m in quality_metrics() if m.name != SCORE), *(one.shown for one in others))


def _kind(given: str, source: str) -> Kind:
    head = source.partition(":")[0].lower()
    if head in OUT_OF_PROCESS:
        remedy = f"write '{head}=command: /venv/bin/python {head}.py'; docs/scorers.md has the script"
        raise UsageError(given, f"{SCORER_LABELS[head]} runs in a process of its own", remedy)
    if head == "command":
        command_of(source)
        return "command"
    if head == "given":
        return "given"
    if head in ("pickscore", "hpsv2"):
        return cast(Kind, head)
    if source == EMBEDDED or head == "local-dir" or "::" in source:
        return "open_clip"
    if names_function(source):
        return "function"
    raise UsageError(given, "it is no scorer: see postdiff scorers", _EXAMPLES)


def _own_name(kind: Kind, source: str) -> str:
    """What a scorer is called that was given no name."""
    if kind in ("pickscore", "hpsv2"):
        return kind
    if kind == "command":
        parts = command_of(source)
        text = Path(next((part for part in parts[1:] if part.endswith(".py")), parts[0])).stem
    elif kind == "open_clip":
        text = Path(source.partition("::")[0]).name
    else:
        text = source.rpartition(":")[2]
    name = re.sub(r"[^a-z0-9_]+", "_", text.lower()).strip("_")
    return name if SCORER_NAME.fullmatch(name) else f"scorer_{name}"


def load_scorer(name: ScorerName, device: str = "cpu") -> Scorer:
    """Load a scorer.

    Raises:
        ModelError: its weights are missing or damaged, or its process does not start.
        UsageError: its function is not there.
    """
    if name.kind == "open_clip":
        from postdiff_calib.quality.clip import ClipScorer

        return ClipScorer(place_of_open_clip(name.source), device, metric=name.metric)
    if name.kind in ("pickscore", "hpsv2"):
        from postdiff_calib.quality.preference import HpsScorer, PickScorer

        kind = PickScorer if name.kind == "pickscore" else HpsScorer
        return kind(name.source, device, batch_size=16, metric=name.metric)
    if name.kind == "command":
        return CommandScorer(name.source, name.metric)
    if name.kind == "given":
        raise ModelError(f"scorer {name.text!r}", "it was an object of a Python program", "pass it again there")
    found = load_function(name.source, "scorer")
    return FunctionScorer(found.function, name.source, name.metric, found.fingerprint)


def place_of_open_clip(source: str) -> str:
    """Where an open_clip model is: the embedded models' own is a folder of this package.

    Raises:
        ModelError: the embedded models are not installed.
    """
    if source != EMBEDDED:
        return source
    from postdiff_calib.models.cards import get_card

    return get_card(EMBEDDED).scorer


class FunctionScorer:
    """A function of the user's own as a scorer.

    Args:
        function: (images, prompts) → B numbers; its attributes ``direction`` (``higher`` by default) and
            ``fingerprint`` are taken over where it has them.
        name: as written in files.
        metric: name of its metric.
        fingerprint: where the function has none of its own.

    Raises:
        UsageError: its direction is neither of the two.
    """

    def __init__(self, function: Callable[..., Any], name: str, metric: str, fingerprint: str) -> None:
        self._function, self.name, self.metric = function, name, metric
        self.direction: Direction = getattr(function, "direction", "higher")
        self.fingerprint = str(getattr(function, "fingerprint", fingerprint))
        if self.direction not in ("higher", "lower"):
            raise UsageError(f"scorer {name!r}", f"its direction is {self.direction!r}", "it is 'higher' or 'lower'")

    def score(self, images: torch.Tensor, prompts: Sequence[str]) -> list[float]:
        """As ``Scorer.score``.

        Raises:
            ScorerError: it failed, or gave what are no B numbers.
        """
        given, remedy = f"scorer {self.name!r}", "correct it, then the same command goes on"
        try:
            found = self._function(images, list(prompts))
            values = [float(value) for value in found]
        except Exception as error:  # a user's function may raise anything
            raise ScorerError(given, one_line(f"{type(error).__name__}: {reason_of(error)}"), remedy) from error
        if len(values) != len(prompts):
            raise ScorerError(given, f"it gave {len(values)} scores for {len(prompts)} images", remedy)
        return values if self.direction == "higher" else [-value for value in values]


def given_scorer(scorer: Any, device: str = "cpu", option: str = "--scorer") -> Scorer:
    """A scorer as a Python program gives it: its text, a function, or an object with ``score``.

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(scorer, str):
        return load_scorer(parse_scorer(scorer, option), device)
    if all(hasattr(scorer, part) for part in ("score", "name", "metric", "direction", "fingerprint")):
        return cast(Scorer, scorer)
    if callable(scorer):
        name = parse_scorer(given_text(scorer), option)
        return FunctionScorer(scorer, name.text, name.metric, fingerprint_of(scorer))
    rule = "it is neither a text, nor a function, nor has it score, name, metric, direction and fingerprint"
    raise UsageError(f"scorer {scorer!r}", rule, "see docs/scorers.md")


def given_text(scorer: Any) -> str:
    """What a study writes down of a scorer that a Python program gives; it can be loaded again where that can be."""
    if isinstance(scorer, str):
        return scorer
    own, name = getattr(scorer, "metric", None), str(getattr(scorer, "name", ""))
    if own is None:
        return f"given:{getattr(scorer, '__name__', type(scorer).__name__)}"
    for option in ("--scorer", "--also"):
        with suppress(PostdiffError):
            if parse_scorer(name, option).metric == own:
                return name
    return f"{own}=given:{name}"


def try_functions(scorers: Iterable[object], size: tuple[int, int]) -> None:
    """Let the scorers that are functions of the user's own judge one grey image, before anything is made for them.

    Args:
        scorers: of any kind; the others are left alone, as loading them shows what is wrong.
        size: (height, width) of the images to come, in pixels.

    Raises:
        ScorerError: one failed, or gave what is no number.
    """
    import torch

    for scorer in scorers:
        if isinstance(scorer, FunctionScorer):
            scorer.score(torch.full((1, 3, *size), 0.5), ["a red circle"])


def close_scorers(scorers: Iterable[object]) -> None:
    """End the processes of those that have one."""
    for scorer in scorers:
        if isinstance(scorer, CommandScorer):
            scorer.close()
