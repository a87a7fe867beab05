"""How good generated images are: CLIP score per prompt, CMMD, fidelity to the baseline's images, health."""

from postdiff_calib.quality.health import HealthError, check_health
from postdiff_calib.quality.metric import Images, Metric
from postdiff_calib.quality.metrics import METRICS, metric, quality_metrics

__all__ = ["METRICS", "HealthError", "Images", "Metric", "check_health", "metric", "quality_metrics"]
