"""The README's image: baseline, calibrated plan, and the best of the other arms, on the same prompts and seeds.

    python benchmarks/readme_grid.py profile.yaml docs/grid.png

The prompts are the first eight held-out prompts of the profile's own draw; none is picked by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from postdiff_calib.generate import generate
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.load import load_pipeline
from postdiff_calib.profile import load_profile
from postdiff_calib.prompts import draw, load_prompt_set

COLUMNS, ZOOM, LABEL, CAPTION = 8, 2, 150, 44


def knobs_of(words: str) -> Knobs:
    """The knobs that ``Knobs.describe`` put into words."""
    values = {name: float(value) for name, value in (part.split("=") for part in words.split())}
    return Knobs(
        int(values["T"]), values.get("s", 0.0), values.get("β", 1.0), int(values.get("k", 1)), values.get("m", 1.0)
    )


def main() -> None:
    profile = load_profile(sys.argv[1])
    loaded = load_pipeline(profile.model.card or profile.model.id)
    evidence = profile.evidence
    calibration, held_out = draw(load_prompt_set(evidence.prompt_set), evidence.num_prompts, evidence.seed)
    prompts = held_out.prompts[:COLUMNS]
    seeds = [evidence.seed + len(calibration) + i for i in range(COLUMNS)]
    row = next(r for r in profile.tradeoff.rows if abs(r.share - profile.budget.share) < 1e-9)
    rows = [(f"baseline\nT={loaded.card.num_inference_steps}", Knobs(loaded.card.num_inference_steps))]
    rows.append((f"calibrated, {profile.expected.relative_macs:.0%}\n" + profile.knobs.describe(), profile.knobs))
    for name, arm in (("step reduction", row.step_reduction), ("cheaper steps", row.cheaper_steps)):
        if arm is not None and arm.plan_id != profile.plan.plan_id:
            rows.append((f"{name}, {arm.relative_macs:.0%}\n{arm.knobs}", knobs_of(arm.knobs)))
    side = profile.model.width * ZOOM
    sheet = Image.new("RGB", (LABEL + COLUMNS * (side + 4), len(rows) * (side + 4) + CAPTION), "white")
    pen = ImageDraw.Draw(sheet)
    for y, (label, knobs) in enumerate(rows):
        images = torch.cat(list(generate(loaded.pipe, knobs, prompts, seeds, profile.generation)))
        label = label.replace("β", "beta").replace(" k=", "\nk=")  # the built-in font has no Greek
        pen.multiline_text((4, y * (side + 4) + side // 2 - 14), label, fill="black", font_size=11)
        for x, image in enumerate(images):
            array = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            tile = Image.fromarray(array).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(tile, (LABEL + x * (side + 4), y * (side + 4)))
    for x, prompt in enumerate(prompts):
        words, lines = prompt.split(), [""]
        for word in words:
            if pen.textlength(f"{lines[-1]} {word}", font_size=9) > side:
                lines.append("")
            lines[-1] = f"{lines[-1]} {word}".strip()
        at = (LABEL + x * (side + 4), len(rows) * (side + 4))
        pen.multiline_text(at, "\n".join(lines), fill="black", font_size=9, spacing=1)
    target = Path(sys.argv[2])
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(target, optimize=True)


if __name__ == "__main__":
    main()
