"""Guidance as two calls of the network in a step: the conditional one, then the unconditional one.

Once guidance has ended, the second call is answered with the first one's output: u + w·(c − u) is c for u = c, and the
network does not run.
"""

from __future__ import annotations

from typing import Any


class SecondCall:
    """Stands before a network, innermost; see ``techniques.hooks``.

    Attributes:
        answers: the present call is answered with ``output``.
        output: what the pipeline got from the first call.
    """

    def __init__(self) -> None:
        self.answers = False
        self.output: Any = None

    def forward(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        """The first call's output, or what the network makes of this one."""
        return self.output if self.answers else original(*args, **kwargs)

    def clear(self) -> None:
        """Drop the output."""
        self.answers, self.output = False, None
