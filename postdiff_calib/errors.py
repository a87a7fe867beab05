"""One family of errors, each a single line: what was given, what the rule is, what to do.

The command line prints the line and exits with ``exit_code``; nothing else of postdiff ends a command with a
traceback. The Python API raises the same errors.

What was given is shown, never obeyed: characters that steer a terminal (escape sequences, line breaks, changes of
writing direction) and halves of characters stand as ``\\x1b`` and the like.
"""

from __future__ import annotations

import re

#: Control characters (C0, DEL, C1), marks that change the writing direction, line separators, lone surrogates.
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
#: Most characters of one part of an error that are shown, and of what was given: the rule must stand behind it.
_SHOWN, _GIVEN = 1500, 1000


def printable(text: str, keep: str = "") -> str:
    """Text that is safe on a terminal: what would steer it is written as an escape; ``keep`` is left as it is."""
    return _STEERING.sub(lambda m: m[0] if m[0] in keep else m[0].encode("unicode_escape").decode("ascii"), text)


def one_line(text: str, most: int = _SHOWN) -> str:
    """Text as a single line that is safe on a terminal: line breaks and tabs become blanks, very long text is cut."""
    text = printable(text.replace("\r\n", " ").replace("\n", " ").replace("\t", " "))
    return text if len(text) <= most else f"{text[: most - 1]}…"


def reason_of(error: BaseException) -> str:
    """Why something failed, in the system's words: an ``OSError``'s reason without its path, else the first line."""
    lines = str(error).splitlines()
    return getattr(error, "strerror", None) or (lines[0] if lines else type(error).__name__)


class PostdiffError(Exception):
    """Base of every error that a user can cause.

    Args:
        given: what was received or found, e.g. ``"low_res_fraction=1.4"``.
        rule: the rule it breaks, e.g. ``"it must lie in [0, 1)"``.
        remedy: what to do now, e.g. ``"take the share of early steps at low resolution, such as 0.5"``.
    """

    exit_code = 2

    def __init__(self, given: str, rule: str, remedy: str) -> None:
        self.given, self.rule, self.remedy = given, rule, remedy
        super().__init__(f"{one_line(given, _GIVEN)}: {one_line(rule)}; {one_line(remedy)}")

    def __reduce__(self) -> tuple[type[PostdiffError], tuple[str, str, str]]:
        return type(self), (self.given, self.rule, self.remedy)


class KnobError(PostdiffError, ValueError):
    """A knob is out of its range or of the wrong type."""


class BudgetError(PostdiffError, ValueError):
    """A budget cannot be read, or nothing reachable meets it."""


class ModelError(PostdiffError):
    """A model is unknown, missing or cannot be loaded safely."""


class UnsupportedError(PostdiffError):
    """A pipeline, scheduler or option with which a technique is not defined; raised before anything runs."""


class UsageError(PostdiffError):
    """An accelerated pipeline was called in a way that contradicts its knobs."""


class PromptError(PostdiffError):
    """A prompt file or set is missing, empty or malformed."""


class ProfileError(PostdiffError):
    """A profile cannot be read, or does not apply to the pipeline at hand."""


class GuardError(PostdiffError, ValueError):
    """A guard rail cannot be read."""


class StudyError(PostdiffError):
    """A study folder cannot be used: other settings, other model, not a study."""


class NoStudyYetError(StudyError):
    """A shared study is not there, or its leader has not described it."""


class PlanError(PostdiffError):
    """One plan cannot be run or scored; the others can."""


class ScorerError(PostdiffError):
    """A scorer failed, whatever the plan was; nothing can be scored until it works."""


class OutputError(PostdiffError):
    """An output path cannot be written."""


class CheckError(PostdiffError):
    """Something was checked and does not hold; commands leave with exit code 3."""

    exit_code = 3


class ProfileWarning(UserWarning):
    """A profile runs on a pipeline that something was added to since, so its figures may no longer hold."""
