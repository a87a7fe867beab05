"""What the paper saw in its own studies, to be printed beside ours; none of these figures was made by postdiff.

Source: PostDiff, arXiv 2508.06160, supplementary material A to D and I; Stable Diffusion 1.5 (DreamShaper-7) on
prompts of MS-COCO 2014, NVIDIA A5000.
"""

from __future__ import annotations

from collections.abc import Collection

REDUNDANCY = (
    "figure 1: feature maps of neighbouring steps are very similar in every block and at every step; attention moves "
    "less than convolution"
)
PROMPT_SIZES = (
    "figure 3: sets of 500 and of 1,000 prompts of MS-COCO order s = 0, 0.3, 0.5 and 0.6 by CLIP score as the whole "
    "validation set does"
)
TRACE = "figure 6: steps at low resolution can raise the CLIP score of the final image"
FINETUNE = (
    "table 3 (supplementary F; 15,000 iterations of 128 images of LAION-Art): SD1.5 with s = β = 1/2 goes from FID "
    "63.64, CLIP 19.47 to 22.28, 28.68; BK-SDM-Tiny with s = 1/5, β = 1/2 from 19.87, 25.87 to 19.38, 28.44"
)
METHODS = (
    "table 3 (SD1.5, FID, CLIP score, seconds on an A5000): original 18.42, 30.80, 2.93; 8 steps 20.60, 30.41, 1.30; "
    "DeepCache 17.79, 30.75, 1.74; T-GATE 19.51, 29.55, 1.99; ToMe 17.43, 30.55, 2.73; PostDiff 16.65, 30.25, 1.14"
)
#: Table 1: setting → (FID, CLIP score, seconds on an A5000).
TABLE_1: dict[str, tuple[float, float, float]] = {
    "original": (18.42, 30.80, 2.93),
    "k=2": (16.65, 30.25, 1.14),
    "k=3": (26.96, 27.68, 0.97),
    "k=4": (39.22, 26.16, 0.94),
    "k=5": (51.39, 25.84, 0.75),
    "m=0.45": (17.94, 28.82, 1.00),
    "m=0.6": (17.21, 29.50, 1.08),
    "m=0.75": (16.65, 30.25, 1.14),
    "m=0.9": (16.49, 30.06, 1.26),
}


def _row(symbol: str) -> str:
    rows = [(name, values) for name, values in TABLE_1.items() if name.startswith(f"{symbol}=")]
    return ", ".join(f"{name} FID {fid:g} CLIP {clip:.2f}" for name, (fid, clip, _) in rows)


#: Field of the knob → what was seen when it was varied. Rows of table 1 have the paper's other knobs set.
ABLATION: dict[str, str] = {
    "low_res_scale": (
        "figure 2 (s = 0.5, FID against FLOPs): β = 0.5 is close to the best; from 0.5 to 0.875 FID rises slightly, "
        "at 0.375 notably"
    ),
    "cache_interval": f"table 1 (original FID 18.42 CLIP 30.80): {_row('k')}",
    "guidance_fraction": f"table 1 (original FID 18.42 CLIP 30.80): {_row('m')}",
    "cross_attention_cache": "figure 7: the conditional output serves best and stays closest to the prompt",
}


def ablation(fields: Collection[str]) -> list[str]:
    """What the paper saw of these knobs, a line each; empty where it did not vary them."""
    return [text for field, text in ABLATION.items() if field in fields]
