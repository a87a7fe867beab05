"""A valid profile as plain data, for tests that change one thing about it."""

from typing import Any

from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan, plan_facts


def difference(mean: float = -0.1, half: float = 0.2) -> dict[str, Any]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "num_prompts": 250}


def metrics() -> list[dict[str, Any]]:
    """The score, and the share of right scenes in per cent."""
    clip = {"metric": "clip", "score": 70.1, "baseline_score": 70.2, "difference": difference(), "spread": 7.0}
    scene = {"metric": "scene", "score": 87.6, "baseline_score": 88.0, "difference": difference(-0.4, 1.5)}
    return [
        {**clip, "weight": 1.0, "delta": 0.7, "verdict": "equivalent"},
        {**scene, "spread": 30.0, "weight": 1.0, "delta": 3.0, "verdict": "equivalent"},
    ]


def arm(knobs: Knobs, relative: float) -> dict[str, Any]:
    return {
        "knobs": knobs.describe(),
        "plan_id": compile_plan(knobs).plan_id,
        "relative_macs": relative,
        "difference": difference(),
        "confirmed": True,
        "metrics": {"clip": difference(), "scene": difference(-0.4, 1.5)},
    }


def profile_data(knobs: Knobs | None = None) -> dict[str, Any]:
    knobs = knobs or Knobs(20, 0.3, 0.5, 2, 0.75)
    plan_id, n_low, gate_step, refresh_steps = plan_facts(compile_plan(knobs))
    return {
        "schema_version": 4,
        "model": {
            "id": "shapes",
            "card": "shapes",
            "revision": "0.1.0",
            "pipeline_class": "StableDiffusionPipeline",
            "denoiser_class": "UNet2DConditionModel",
            "fingerprint": "0123abcd",
            "dtype": "float32",
            "height": 64,
            "width": 64,
            "scheduler": "DPMSolverMultistepScheduler",
            "guidance_scale": 4.0,
            "configuration": None,
            "tokenizer": None,
            "notes": [],
            "num_inference_steps": None,
            "negative_prompt": None,
            "scheduler_config": None,
            "adapters": [],
            "loras": [],
            "vae": None,
            "variant": None,
            "unet_revision": None,
        },
        "budget": {
            "text": "60%",
            "kind": "macs",
            "quantile": "median",
            "limit": 3.0e9,
            "share": 0.6,
            "unit": "MACs per image",
            "batch_size": 25,
            "guards": [{"metric": "ssim", "rule": "at least", "limit": 0.7, "value": 0.75, "bound": False}],
        },
        "knobs": knobs.as_dict(),
        "plan": {
            "plan_id": plan_id,
            "n_low": n_low,
            "gate_step": gate_step,
            "refresh_steps": list(refresh_steps),
            "noise": "coupled",
            "switch": "renoise",
            "latent_multiple": 2,
        },
        "expected": {
            "cost": {"macs": 2.9e9, "macs_paper": 2.7e9},
            "baseline_cost": {"macs": 5.0e9, "macs_paper": 4.7e9},
            "relative_macs": 0.58,
            "metric": "clip_score",
            "score": 70.1,
            "baseline_score": 70.2,
            "difference": difference(),
            "delta": 0.7,
            "verdict": "equivalent",
            "prompts_to_decide": None,
            "confirmed": True,
            "cmmd": 0.012,
            "ssim": 0.75,
            "psnr": 19.5,
            "lpips": None,
            "metrics": metrics(),
        },
        "tradeoff": {
            "rows": [
                {
                    "share": 0.6,
                    "step_reduction": arm(Knobs(12), 0.6),
                    "cheaper_steps": arm(knobs, 0.58),
                    "combined": None,
                    "cheaper_steps_minus_step_reduction": difference(0.03, 0.02),
                    "searched": True,
                    "unit": "spreads",
                    "metrics": {"clip": difference(0.3), "scene": difference(0.2, 1.0)},
                    "winner": "cheaper_steps",
                    "answer": "Cheaper steps win at 60%.",
                }
            ],
            "crossover": None,
        },
        "evidence": {
            "prompt_set": "shapes",
            "prompt_set_sha256": "ab" * 32,
            "num_prompts": 500,
            "num_held_out": 250,
            "held_out_sha256": "cd" * 32,
            "seed": 0,
            "scorer": "local-dir:scorer",
            "scorer_sha256": "ef" * 32,
            "search": "postdiff",
            "trials": 40,
            "images": 3000,
            "minimum_detectable_difference": 0.2,
            "study": "studies/shapes",
            "notes": [],
            "restrictions": [],
            "also": [],
        },
        "environment": {
            "device": "cpu",
            "versions": {"torch": "2.15.0"},
            "compile": "off",
            "attention": {"unet": "AttnProcessor2_0"},
            "memory_format": "contiguous",
        },
        "times": {
            "device": "cpu",
            "disagreement": 0.01,
            "plan": {"call": 1.5, "call_p95": 1.5625, "per_image": 0.06, "per_image_p95": 0.0625},
            "baseline": {"call": 2.5, "call_p95": 2.75, "per_image": 0.1, "per_image_p95": 0.11},
            "relative": 0.6,
            "whole_calls": None,
            "rows": [{"share": 0.6, "step_reduction": 1.5, "cheaper_steps": 1.5, "combined": None}],
            "notes": [],
        },
    }


def profile_for(pipe: Any, knobs: Knobs = Knobs(4, 0.5, 0.5, 2, 0.5), **model: Any) -> Any:  # noqa: B008  # immutable
    """A profile made for a tiny pipeline: 128 pixels, guidance 5."""
    from postdiff_calib.models.fingerprint import configuration_of
    from postdiff_calib.profile import Profile

    data = profile_data(knobs)
    data["model"] |= {
        "pipeline_class": type(pipe).__name__,
        "denoiser_class": type(getattr(pipe, "unet", None) or pipe.transformer).__name__,
        "scheduler": type(pipe.scheduler).__name__,
        "configuration": configuration_of(pipe),
        "height": 128,
        "width": 128,
        "guidance_scale": 5.0,
        **model,
    }
    data["plan"]["latent_multiple"] = 8
    return Profile.model_validate(data)
