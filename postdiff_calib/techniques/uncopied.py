"""What must not be copied or pickled: a copy's hooks would hold on to the original's weights and state."""

from __future__ import annotations

from typing import Any, NoReturn

from postdiff_calib.errors import UsageError


class Uncopied:
    """Refuses ``copy.copy``, ``copy.deepcopy`` and ``pickle``, also of whatever holds it: a network by its hooks."""

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse.

        Raises:
            UsageError: always.
        """
        refuse_copy(self, protocol)


def refuse_copy(_: Any, __: Any = None) -> NoReturn:
    """Stands for ``__reduce_ex__``, by which Python copies and pickles.

    Raises:
        UsageError: always.
    """
    raise UsageError(
        "a copy or pickle of an accelerated pipeline",
        "its hooks would go on acting on the original's weights and return wrong images",
        "call disable(pipe) first, then enable the copy; for threads or processes, load one pipeline in each",
    )
