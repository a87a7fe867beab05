"""A ComfyUI node that reads a postdiff profile and applies to a model what ComfyUI's own sampling can do of it.

Copy this folder into ``ComfyUI/custom_nodes/postdiff``. It needs PyYAML, which ComfyUI brings, and not postdiff itself.

Applied: the number of steps T, and guidance on the first ``gate_step`` of them, after which the negative prompt is not
run any more. Not applied: low-resolution steps, the block cache, and the cross-attention cache; a profile that uses one
of them is refused unless ``allow_partial`` is set, for then its figures do not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

#: Bytes of a profile at most; real ones have a few ten thousand.
MOST_BYTES = 4_000_000
#: Two noise levels this near, relative to the larger, are the same step.
SAME = 1e-4


@dataclass(frozen=True)
class Plan:
    """What a profile asks for, as far as it can be done here.

    Attributes:
        steps: T.
        gate_step: number of guided steps.
        cfg: the guidance scale.
        left_out: text of what the profile's plan does beside that → the option of calibrate that avoids it.
    """

    steps: int
    gate_step: int
    cfg: float
    left_out: Mapping[str, str]


def read_plan(path: str | Path) -> Plan:
    """Read a profile.

    Raises:
        ValueError: the file is no profile of postdiff; the text says what is wrong.
    """
    file, remedy = Path(path).expanduser(), "name a file of postdiff calibrate"
    try:
        with file.open("rb") as opened:
            text = opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"profile {file}: it cannot be read ({error.strerror}); {remedy}") from None
    if len(text) > MOST_BYTES:
        raise ValueError(f"profile {file}: it is larger than {MOST_BYTES} bytes; {remedy}")
    try:
        data = yaml.safe_load(text)
        knobs, gate_step = data["knobs"], int(data["plan"]["gate_step"])
        steps, cfg = int(knobs["num_inference_steps"]), float(data["model"]["guidance_scale"])
        left_out = not_applied(knobs, gate_step)
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"profile {file}: it is not one of postdiff ({said}); {remedy}") from None
    if not 1 <= gate_step <= steps:
        raise ValueError(f"profile {file}: {gate_step} guided steps of {steps} cannot be; calibrate again")
    return Plan(steps, gate_step, cfg, left_out)


def not_applied(knobs: Mapping[str, Any], gate_step: int) -> dict[str, str]:
    """What of a plan this node leaves out, as text → the option of calibrate that avoids it.

    Args:
        knobs: the section of the same name.
        gate_step: number of guided steps.
    """
    found = {}
    if float(knobs["low_res_fraction"]) > 0:
        found[f"low-resolution steps (low_res_fraction={knobs['low_res_fraction']})"] = "--fix s=0"
    if int(knobs["cache_interval"]) > 1:
        found[f"the block cache (cache_interval={knobs['cache_interval']})"] = "--fix k=1"
    if gate_step < int(knobs["num_inference_steps"]) and knobs["cross_attention_cache"] != "off":
        found[f"the cross-attention cache (cross_attention_cache={knobs['cross_attention_cache']})"] = "--fix m=1"
    return found


def step_of(sigma: float, sigmas: Sequence[float]) -> int:
    """The step in which a noise level is evaluated; one between two levels belongs to the step that began above it.

    Args:
        sigma: the level of the evaluation.
        sigmas: the schedule, T + 1 falling levels, the last one often 0.
    """
    return max(0, sum(level >= sigma * (1 - SAME) for level in sigmas[:-1]) - 1)


class GuidanceUntil:
    """Stands in for ComfyUI's evaluation of both prompts: after the gate step, the positive one alone.

    ComfyUI calls it with ``conds`` [positive, negative], ``input``, ``sigma``, ``model`` and ``model_options``, and
    takes a prediction for each. Where the negative prompt is not run, the positive prediction stands for both, so that
    the guidance formula gives it back whatever the scale.

    Args:
        plan: of the profile.
        inner: what stood there before, or None for ComfyUI's own.
    """

    def __init__(self, plan: Plan, inner: Callable[[dict[str, Any]], list[Any]] | None = None) -> None:
        self.plan, self.inner = plan, inner

    def __call__(self, args: dict[str, Any]) -> list[Any]:
        """The predictions for both prompts."""
        sigmas = args["model_options"].get("transformer_options", {}).get("sample_sigmas")
        if sigmas is None:
            raise ValueError("postdiff: this ComfyUI does not tell nodes the schedule (sample_sigmas); update ComfyUI")
        sigma = float(args["sigma"].max())
        if step_of(sigma, [float(level) for level in sigmas]) < self.plan.gate_step or args["conds"][1] is None:
            return self._evaluate(args)
        alone = self._evaluate({**args, "conds": [args["conds"][0], None]})[0]
        return [alone, alone]

    def _evaluate(self, args: dict[str, Any]) -> list[Any]:
        if self.inner is not None:
            return self.inner(args)
        import comfy.samplers

        return list(
            comfy.samplers.calc_cond_batch(
                args["model"], args["conds"], args["input"], args["sigma"], args["model_options"]
            )
        )


class PostdiffProfile:
    """The node: a model in, the same model sampled as the profile says out, with steps and cfg for the sampler."""

    CATEGORY = "sampling/postdiff"
    FUNCTION = "apply"
    RETURN_TYPES = ("MODEL", "INT", "FLOAT", "STRING")
    RETURN_NAMES = ("model", "steps", "cfg", "not_applied")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """The node's inputs, as ComfyUI asks for them."""
        return {
            "required": {
                "model": ("MODEL",),
                "profile": ("STRING", {"default": "profile.yaml"}),
                "allow_partial": ("BOOLEAN", {"default": False}),
            }
        }

    def apply(self, model: Any, profile: str, allow_partial: bool) -> tuple[Any, int, float, str]:
        """Patch a copy of the model.

        Raises:
            ValueError: the file is no profile, or its plan does what this node cannot and that was not allowed.
        """
        plan = read_plan(profile)
        if plan.left_out and not allow_partial:
            raise ValueError(
                f"profile {profile}: ComfyUI would leave out {' and '.join(plan.left_out)}, so the profile's figures "
                f"would not hold; calibrate with {' '.join(plan.left_out.values())}, or set allow_partial"
            )
        patched = model.clone()
        inner = patched.model_options.get("sampler_calc_cond_batch_function")
        if plan.gate_step < plan.steps:
            patched.set_model_sampler_calc_cond_batch_function(GuidanceUntil(plan, inner))
        return patched, plan.steps, plan.cfg, ", ".join(plan.left_out)


NODE_CLASS_MAPPINGS = {"PostdiffProfile": PostdiffProfile}
NODE_DISPLAY_NAME_MAPPINGS = {"PostdiffProfile": "postdiff profile"}
