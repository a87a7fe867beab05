"""Prompt sets: read captions from files, draw a calibration set and a disjoint held-out set."""

from postdiff_calib.prompts.draw import draw, left_over
from postdiff_calib.prompts.formats import Columns
from postdiff_calib.prompts.read import PromptSet, content_hash, load_prompt_set, shipped_sets

__all__ = ["Columns", "PromptSet", "content_hash", "draw", "left_over", "load_prompt_set", "shipped_sets"]
