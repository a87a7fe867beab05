"""The deployment profile: what calibration found, as a YAML file that a deployment can load, check and run.

Strict on reading: an unknown key, a wrong type, a value out of range or a newer schema is an error that names the file,
the line and the key. Written atomically, with a comment above each section. Holds no secrets: the storage address of a
study is written without its password. ``profile.schema.json`` beside this file is its JSON Schema.
"""

from postdiff_calib.profile.comments import comment
from postdiff_calib.profile.document import Profile, json_schema
from postdiff_calib.profile.earlier import SCHEMA_VERSION
from postdiff_calib.profile.read import load_profile, parse_profile
from postdiff_calib.profile.sections import Comparison, Cost, GuardEntry, MetricResult
from postdiff_calib.profile.times import PlanTimes, RowTimes, TimesSection, WholeCalls
from postdiff_calib.profile.tradeoff import ArmResult, TradeoffRow

__all__ = [
    "SCHEMA_VERSION",
    "ArmResult",
    "Comparison",
    "Cost",
    "GuardEntry",
    "MetricResult",
    "PlanTimes",
    "Profile",
    "RowTimes",
    "TimesSection",
    "TradeoffRow",
    "WholeCalls",
    "comment",
    "json_schema",
    "load_profile",
    "parse_profile",
]
