"""What a calibration from Python found: the profile, the frontier, the table of arms, report and plot."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postdiff_calib.errors import UsageError
from postdiff_calib.profile import Profile

if TYPE_CHECKING:
    from postdiff_calib.models.load import LoadedModel
    from postdiff_calib.study.arms import Tradeoff


@dataclass(frozen=True)
class Result:
    """What a calibration found.

    Attributes:
        profile: the deployment profile; ``enable(pipe, result.profile)`` runs it.
        path: where it was written.
        study: folder of the study; the same call goes on with it.
        interrupted: stopped by Ctrl-C before the plan was confirmed.
    """

    profile: Profile
    path: Path
    study: Path
    interrupted: bool = False
    _loaded: LoadedModel | None = field(default=None, repr=False, compare=False)

    @property
    def _tradeoff(self) -> Tradeoff:
        from postdiff_calib.study.arms import compare_arms
        from postdiff_calib.study.record import Study

        return compare_arms(Study.load(self.study))

    @property
    def frontier(self) -> list[dict[str, Any]]:
        """Plans that no other plan of their arm beats in cost and score, cheapest first: a mapping of plain data each.

        ``arm``, ``knobs`` as text, ``share`` of the baseline's cost, ``difference`` of the score to the baseline with
        ``low`` and ``high`` (95 % interval, points), and whether ``held_out`` prompts judged it.
        """
        found = [
            {
                "arm": arm,
                "knobs": point.knobs,
                "share": point.share,
                "difference": point.difference.mean,
                "low": point.difference.low,
                "high": point.difference.high,
                "held_out": point.held_out,
            }
            for arm, points in self._tradeoff.points.items()
            for point in points
            if point.on_frontier
        ]
        return sorted(found, key=lambda row: row["share"])

    @property
    def table(self) -> list[dict[str, Any]]:
        """The best plan found of each arm at every budget: a mapping of plain data each, cheapest budget first.

        ``budget`` as a share of the baseline's cost, ``arm``, ``knobs`` as text, ``macs`` as a share of the baseline's,
        ``seconds`` of a call (None where not timed), ``difference``, ``low``, ``high`` as in ``frontier``, ``winner``.
        """
        rows: list[dict[str, Any]] = []
        found = self.profile.times.rows
        for number, row in enumerate(self.profile.tradeoff.rows):
            timed = found[number] if found else None
            for arm in ("step_reduction", "cheaper_steps", "combined"):
                if (plan := getattr(row, arm)) is not None:
                    rows.append(
                        {
                            "budget": row.share,
                            "arm": arm,
                            "knobs": plan.knobs,
                            "macs": plan.relative_macs,
                            "seconds": None if timed is None else getattr(timed, arm),
                            "difference": plan.difference.mean,
                            "low": plan.difference.low,
                            "high": plan.difference.high,
                            "winner": row.winner,
                        }
                    )
        return rows

    def report(self, path: str | Path, *, images: bool = True) -> Path:
        """Write the study's page as one HTML file; images that are missing are made with the same pipeline.

        Raises:
            UsageError: Jinja2 is not installed (``pip install 'postdiff[report]'``).
            OutputError: the file cannot be written.
        """
        from postdiff_calib.report.html.page import ReportJob, write_report

        return write_report(ReportJob(self.study, Path(path), images=images), loaded=self._loaded)

    def plot(self, path: str | Path | None = None) -> Any:
        """Quality against cost for the three arms, as a matplotlib figure; also written to ``path`` where given.

        Raises:
            UsageError: matplotlib is not installed (``pip install 'postdiff[report]'``).
            OutputError: the file cannot be written.
        """
        from postdiff_calib.report.plots import draw_tradeoff, plot_tradeoff

        if path is not None:
            plot_tradeoff(self._tradeoff, Path(path))
        try:
            return draw_tradeoff(self._tradeoff)
        except ImportError as error:
            raise UsageError("plot", "it needs matplotlib", "install it: pip install 'postdiff[report]'") from error
