"""What stands above each section of a profile's file."""

from __future__ import annotations

import textwrap

from postdiff_calib.knobs import table
from postdiff_calib.quality.metrics import directions

#: Comment written above each section, for someone who has never seen such a file.
_COMMENTS: dict[str, str] = {
    "schema_version": (
        "A profile of postdiff: how to run one text-to-image model within a budget, and what that costs and loses.\n"
        'Use it:     postdiff generate --profile THIS_FILE "a prompt"\n'
        "Read it:    postdiff profile show THIS_FILE\n"
        "In Python:  postdiff_calib.enable(pipe, postdiff_calib.load_profile(path))\n"
        "The number is the version of this file's format."
    ),
    "model": (
        "The model that was measured. The settings below are refused on any other: the figures would not hold there.\n"
        "height and width are in pixels; fingerprint is a hash of the networks and their weights."
    ),
    "budget": (
        "What one image may cost: text as it was asked for, limit as the hard upper bound it became, share as a part\n"
        "of the baseline's cost. No plan over the limit was chosen. Seconds are of a call of batch_size images,\n"
        "unless unit says per image.\n"
        "guards: what the plan had to keep beside; bound marks those that kept a plan of a higher score out."
    ),
    "plan": (
        "What the settings come to, steps counted from 0: n_low steps at low resolution, guidance before gate_step,\n"
        "deep blocks run on refresh_steps. plan_id is a hash of it. noise: of low-resolution steps.\n"
        "switch: how they get to full size."
    ),
    "expected": (
        "Cost per image and quality, with the same for the baseline. macs are multiply-accumulates of all\n"
        "denoising steps (macs_paper leaves out attention's own products).\n"
        "difference: this plan minus the baseline on the same prompts and seeds, mean and 95 % interval;\n"
        "its lower end allows for the choice among finalists. verdict: better, equivalent (within delta), worse, or\n"
        "undecided, over all metrics. delta: a tenth of the spread, which is how much the baseline's own value moves\n"
        "with the seed. confirmed: on prompts that the search never saw."
    ),
    "categories": (
        "The same difference by category of held-out prompt; each interval is 95 % by itself. loses: metrics in which\n"
        "a category loses significantly, with the p values of all comparisons adjusted by the correction."
    ),
    "tradeoff": (
        "Step reduction, cheaper steps, or combined? The best plan found of each arm at several budgets (share of the\n"
        "baseline's cost), and between which budgets the better arm changes, if that is shown. A row that was not\n"
        "searched decides nothing. The interval of cheaper steps minus step reduction covers the best plans of both."
    ),
    "evidence": (
        "What the figures rest on: prompts, seeds, the scoring model, the search. A true difference of\n"
        "minimum_detectable_difference is found in four such studies of five. notes say what is thin."
    ),
    "environment": (
        "Where it was measured: device made the scored images. compile: how the network was compiled for the seconds\n"
        "below; compiled otherwise, they do not hold, nor with another attention or memory format."
    ),
    "times": (
        "All that varies when the same command runs again. Seconds are of a whole call of budget.batch_size images on\n"
        "device, median and 95th percentile, and per image; relative: the plan's over the baseline's. whole_calls:\n"
        "calls that were timed as they are; the other seconds are predicted from measured kinds of step.\n"
        "disagreement: by which share rounds of that measurement disagree; above 0.02 the seconds are unstable.\n"
        "rows: the seconds of a call of the plans of the trade-off."
    ),
}


def comment(section: str, plan: str) -> str:
    """The lines above a section, without their ``#``; that of the knobs says what each of them is.

    Args:
        section: the section's name.
        plan: what the profile's plan does, as text.
    """
    if section == "knobs":
        return "\n".join(textwrap.fill(text, 110) for text in (f"The plan: {plan}.", _knobs_comment()))
    if section == "expected":
        *above, last = _COMMENTS[section].splitlines()
        # the lines above stay as they are; the last one is filled up
        compared = f"{last} {directions()} compare images with the baseline's."
        return "\n".join([*above, textwrap.fill(compared, 110)])
    return _COMMENTS[section]


def _knobs_comment() -> str:
    text = "The settings to use."
    for row in table():
        name = f"{row.field} ({row.symbol})" if len(row.symbol) == 1 else row.field
        if name not in text:  # the line of another knob may have said it
            text += f" {name}: {row.meaning}."
    return text
