"""The jobs as Python functions on a live pipeline object, and what a calibration found."""

from postdiff_calib.api.calls import calibrate, judge, price, verify
from postdiff_calib.api.result import Result

__all__ = ["Result", "calibrate", "judge", "price", "verify"]
