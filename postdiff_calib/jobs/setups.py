"""A set-up: one way to run a pipeline that is judged against the pipeline as it is.

It is a profile, knobs in a line (``T=12 k=2``), or a function of the user's own that changes the pipeline as it likes.
The function is given the pipeline and returns nothing; or a mapping of arguments for each call; or what is to be called
in the pipeline's place. One that yields such a value instead is gone on with afterwards, so that it can undo what it
did; of any other it is taken that the pipeline stays changed.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postdiff_calib.errors import KnobError, PostdiffError, ProfileError, UsageError, one_line, reason_of
from postdiff_calib.files.named import NamedFunction, fingerprint_of, load_function, names_function
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.profile import Profile, load_profile
from postdiff_calib.profile.match import call_mismatches, mismatches
from postdiff_calib.search.restrict import parse_restriction
from postdiff_calib.techniques.noise import DEFAULT_SWITCH

if TYPE_CHECKING:
    from postdiff_calib.generate.settings import GenerationSettings
    from postdiff_calib.models.card import Card
    from postdiff_calib.models.load import LoadedModel

_EXAMPLES = "such as profile.yaml, 'T=12 k=2' or my_module:my_function"


@dataclass(frozen=True)
class SetUp:
    """One set-up; just one of the last three is there.

    Args:
        text: as written.
        values: of knobs by field.
        profile: a profile.
        function: changes the pipeline.
    """

    text: str
    values: Mapping[str, Any] | None = None
    profile: Profile | None = None
    function: NamedFunction | None = None

    def knobs(self, card: Card) -> Knobs | None:
        """The knobs it runs with; None of a function.

        Raises:
            KnobError, UnsupportedError: the model does not take them.
        """
        if self.profile is not None:
            return self.profile.knobs
        if self.values is None:
            return None
        return card.settled(self.values)

    def key(self, card: Card) -> str:
        """What its images depend on beside the model and the settings, as a hash of 16 digits."""
        knobs = self.knobs(card)
        about: list[Any] = [] if self.function is None else [self.function.fingerprint, self.text]
        if knobs is not None:
            about = [compile_plan(knobs).plan_id]
        if self.profile is not None:
            about += [self.profile.noise, self.profile.latent_multiple]
            about += [self.profile.switch] if self.profile.switch != DEFAULT_SWITCH else []
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]

    def settings(self, settings: GenerationSettings) -> GenerationSettings:
        """How its images are made: a profile's low-resolution steps as the profile has them, all else as given."""
        own = self.profile
        if own is None:
            return settings
        return replace(settings, noise=own.plan.noise, switch=own.plan.switch, latent_multiple=own.latent_multiple)

    def require_fit(self, loaded: LoadedModel, settings: GenerationSettings) -> None:
        """Refuse a profile of another pipeline, or of other settings, before any image is made.

        Raises:
            ProfileError: it is one.
        """
        if self.profile is None:
            return
        found = [*mismatches(self.profile.model, loaded), *call_mismatches(self.profile.generation, settings)]
        if found:
            rule = f"this pipeline differs in {'; '.join(found)}"
            remedy = f"judge with the profile's own settings, or its knobs alone ({self.profile.knobs.describe()})"
            raise ProfileError(f"set-up {self.text}", rule, remedy)

    @property
    def undone(self) -> bool:
        """Whether the pipeline is afterwards as it was."""
        return self.function is None or inspect.isgeneratorfunction(inspect.unwrap(self.function.function))


def parse_setup(given: Any, option: str = "--with") -> SetUp:
    """Read a set-up.

    Args:
        given: a profile's path, knobs in a line, ``module:function`` or ``file.py:function``; from Python also a
            ``Profile``, ``Knobs`` or a function.
        option: as on the command line, for messages.

    Raises:
        UsageError: it is none of these, or the function is not there.
        KnobError: a knob is unknown or out of its range.
        ProfileError: the profile cannot be read.
    """
    if isinstance(given, Profile):
        return SetUp(f"profile of {given.knobs.describe()}", profile=given)
    if isinstance(given, Knobs):
        return SetUp(given.describe(), values=given.as_dict())
    if callable(given):
        name = getattr(given, "__name__", type(given).__name__)
        return SetUp(name, function=NamedFunction(given, name, fingerprint_of(given)))
    if not isinstance(given, (str, Path)):
        raise UsageError(f"{option} {given!r}", "it is no profile, no knobs and no function", _EXAMPLES)
    text = str(given).strip()
    if text.lower().endswith((".yaml", ".yml")) or os.path.isfile(text):
        return SetUp(text, profile=load_profile(text))
    if text and all("=" in part for part in text.split()):
        return SetUp(text, values=_values(text, option))
    if names_function(text):
        return SetUp(text, function=load_function(text, option))
    raise UsageError(f"{option} {text}", "it is no profile, no knobs and no function", _EXAMPLES)


def _values(text: str, option: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in text.split():
        one = parse_restriction(part, option)
        if len(one.values) != 1:
            raise KnobError(f"{option} {text}", f"{part} is no single value", "such as T=12 k=2")
        if one.field in found:
            raise KnobError(f"{option} {text}", f"{one.row.symbol} is given twice", "give it once")
        found[one.field] = one.values[0]
    return found


@dataclass(frozen=True)
class Applied:
    """A pipeline with a set-up: what is called, and further arguments of the call."""

    call: Callable[..., Any]
    arguments: Mapping[str, Any]


@contextmanager
def applied(setup: SetUp, pipe: Any) -> Iterator[Applied]:
    """A function's set-up on a pipeline, for the length of the block where it can be undone.

    Raises:
        UsageError: the function fails, or returns something else than a set-up may.
    """
    assert setup.function is not None
    with failing(setup, "it fails"):
        returned = setup.function.function(pipe)
        running = returned if inspect.isgenerator(returned) else None
        value = next(running, None) if running is not None else returned
    if value is None or value is pipe:
        found = Applied(pipe, {})
    elif isinstance(value, Mapping):
        found = Applied(pipe, dict(value))
    elif callable(value):
        found = Applied(value, {})
    else:
        rule = f"it returned {type(value).__name__}, which is no pipeline, no function and no mapping of arguments"
        raise UsageError(f"--with {setup.text}", rule, "return None where it changed the pipeline itself")
    try:
        yield found
    finally:
        if running is not None:
            with failing(setup, "it fails behind its yield"):
                next(running, None)


@contextmanager
def failing(setup: SetUp, what: str) -> Iterator[None]:
    """Errors of a user's code as one line; ours, and memory that ran out, pass.

    Raises:
        UsageError: in the place of any other error.
    """
    from postdiff_calib.scores.memory import is_out_of_memory

    try:
        yield
    except PostdiffError:
        raise
    except Exception as error:  # a user's function may raise anything
        if is_out_of_memory(error):
            raise
        reason = one_line(f"{type(error).__name__}: {reason_of(error)}")
        raise UsageError(f"--with {setup.text}", f"{what} ({reason})", "correct it, or leave it out") from error
