"""How good generated images are: CLIP score per prompt, CMMD, fidelity to the baseline's images, health."""

from postdiff_calib.quality.health import HealthError, check_health
from postdiff_calib.quality.metrics import METRICS, Metric, Pictures, metric, quality_metrics

__all__ = ["METRICS", "HealthError", "Metric", "Pictures", "check_health", "metric", "quality_metrics"]
