"""One family of errors, each a single line: what was given, what the rule is, what to do.

The command line prints the line and exits with ``exit_code``; nothing else of postdiff ends a command with a
traceback. The Python API raises the same errors.
"""

from __future__ import annotations


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
        super().__init__(f"{given}: {rule}; {remedy}".replace("\n", " "))

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


class OutputError(PostdiffError):
    """An output path cannot be written."""


class CheckError(PostdiffError):
    """Something was checked and does not hold; commands leave with exit code 3."""

    exit_code = 3


class ProfileWarning(UserWarning):
    """A profile runs on a pipeline that something was added to since, so its figures may no longer hold."""
