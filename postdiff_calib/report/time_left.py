"""How long a job still takes: what it expected of its work, corrected by how long the work so far really took.

Symbols: w expected seconds of work, t real seconds, pace = t/w. A job says w of what it did, of what is left of the
stage and of later stages (``TimedProgress.work``), from its images and the cost of each plan. The pace of a stage is
that of its own work so far, with the pace of all stages before counted as work of ``PRIOR`` of the stage: a stage that
has hardly begun is not judged by its first image. Later stages get the pace of all work so far.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Share of a stage's expected seconds that the pace of the work before counts for.
PRIOR = 0.05


@dataclass
class TimeLeft:
    """The time that a stage and all stages after it still take.

    Attributes:
        started: when the stage began, in seconds of any clock.
        made, left, later: expected seconds of what the stage did, of its rest, and of later stages.
        before_made, before_took: expected and real seconds of earlier stages, as far as these said what they expected.
    """

    started: float
    made: float = 0.0
    left: float = 0.0
    later: float = 0.0
    before_made: float = 0.0
    before_took: float = 0.0

    def stage(self, now: float) -> None:
        """A stage ends and the next one begins."""
        if self.made > 0:
            self.before_made += self.made
            self.before_took += now - self.started
        self.started, self.made, self.left, self.later = now, 0.0, 0.0, 0.0

    def work(self, made: float, left: float, later: float) -> None:
        """As ``TimedProgress.work``."""
        self.made, self.left, self.later = self.made + made, left, later

    def of_stage(self, now: float) -> float | None:
        """Seconds that the stage still takes; None where it did not say what it expects."""
        return None if self.made <= 0 and self.left <= 0 else self._pace(now) * self.left

    def of_all(self, now: float) -> float | None:
        """Seconds until the last stage ends; None where no stage comes after this one, or nothing can be said yet."""
        stage = self.of_stage(now)
        if stage is None or self.later <= 0:
            return None
        if self.made <= 0:
            return stage + self._before * self.later
        done, took = self.before_made + self.made, self.before_took + now - self.started
        return stage + took / done * self.later

    @property
    def _before(self) -> float:
        return self.before_took / self.before_made if self.before_made > 0 else 1.0

    def _pace(self, now: float) -> float:
        if self.made <= 0:
            return self._before
        prior = PRIOR * (self.made + self.left)
        return (now - self.started + self._before * prior) / (self.made + prior)
