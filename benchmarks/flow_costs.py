"""MACs of the rectified-flow cards at their native size, beside published figures; nothing is downloaded.

    python benchmarks/flow_costs.py

Denoising loop only, default steps and guidance, counted on the meta device in both conventions. Published figures are
in FLOPs, of which a multiply-accumulate is two, and are of the first ``calls`` network calls. Parameters are all
numbers that a checkpoint of the transformer holds: of Stable Diffusion 3 with its table of positions.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from postdiff_calib.cost.build import table_for_card
from postdiff_calib.cost.networks import build
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.cards import get_card
from postdiff_calib.plan import compile_plan

RESULT = Path(__file__).parent / "results" / "flow_costs.json"
CARDS = ("sana-1600m", "sd3-medium", "sd35-medium", "sd35-large", "flux-dev", "flux-schnell", "qwen-image")
CARDS += ("z-image", "z-image-turbo")
HYCA = "HyCa, arXiv 2510.04188, tables 1, 2 and 5"
#: Card → TFLOPs, and their source. No published figure was found for the others.
PUBLISHED = {
    "flux-dev": (3719.50, HYCA),
    "flux-schnell": (297.60, HYCA),
    "qwen-image": (12917.56, HYCA),
}


def main() -> None:
    rows = []
    heads = ("card", "parameters", "size", "calls", "TMACs full", "TMACs paper", "TFLOPs full", "published")
    print(f"| {' | '.join(heads)} |\n|" + " --- |" * len(heads))
    for name in CARDS:
        card = get_card(name)
        table = table_for_card(card)
        price = table.price(compile_plan(Knobs(card.num_inference_steps)))
        network = build(card.network_config(card.denoiser_role))
        calls = card.num_inference_steps * (2 if table.guides else 1)
        published, source = PUBLISHED.get(name, (None, None))
        row = {
            "card": name,
            "parameters": sum(tensor.numel() for tensor in network.state_dict().values()),
            "height": card.height,
            "width": card.width,
            "steps": card.num_inference_steps,
            "guidance_scale": card.guidance_scale,
            "calls": calls,
            "text_length": card.text_length,
            "macs": price.macs,
            "macs_paper": price.macs_paper,
            "published_tflops": published,
            "source": source,
        }
        rows.append(row)
        cells = [name, f"{row['parameters'] / 1e9:.2f} B", f"{card.height}²", str(calls), f"{price.macs / 1e12:.1f}"]
        cells += [f"{price.macs_paper / 1e12:.1f}", f"{2 * price.macs / 1e12:.1f}"]
        cells += [f"{published:.1f} ({2 * price.macs / 1e12 / published:.3f} ×)" if published else "none found"]
        print(f"| {' | '.join(cells)} |")
    facts = {"versions": {package: version(package) for package in ("torch", "diffusers")}}
    RESULT.write_text(json.dumps({"about": facts, "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
