"""Mixed-resolution denoising, s and β: the early steps run on a smaller latent.

Two moments. The start: noise of the low size, by default made from the full-size noise of the same seed, so that a
seed keeps its composition. The switch, after the last low-resolution step: predicted clean latent x̂0 → bilinear
up-sampling → forward noising to the next timestep. Source: PostDiff, arXiv 2508.06160, section 2.2, which draws fresh
noise for both; pooling the start from the seed's noise is ours, and so is the noise of the switch in
``switch_noise.py``, which draws none.

Symbols: β low side over full side, x̂0 predicted clean latent, ε noise; latents (B, C, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from postdiff_calib.errors import KnobError, UnsupportedError
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.families import Family, denoiser_of
from postdiff_calib.models.families.family import Resized
from postdiff_calib.techniques.step import StepKind
from postdiff_calib.techniques.technique import (
    Columns,
    Deployment,
    Fired,
    NetworkCall,
    Part,
    Probing,
    State,
    Steps,
    Technique,
)


class MixedResolution(Technique):
    """The first n_low = min(round(s·T), T − 1) steps run at low resolution: at least one step is at full resolution."""

    name = "mixed resolution"
    states = (State("low_res", False, "resolution", 10, ("full", "low"), ("full resolution", "low resolution")),)

    def columns(self, knobs: Knobs, columns: Columns) -> Columns:  # noqa: D102
        total = knobs.num_inference_steps
        # 9 decimals first: 0.15 · 10 must count as 1.5 whatever its binary form.
        n_low = min(round(round(knobs.low_res_fraction * total, 9)), total - 1)
        return _columns(total, n_low)

    def facts(self, knobs: Knobs, steps: Steps) -> Mapping[str, Any]:  # noqa: D102
        return {"scale": knobs.low_res_scale if self.acts(steps) else None}

    def effective(self, knobs: Knobs, steps: Steps) -> Mapping[str, float]:  # noqa: D102
        n_low = _count_low(steps)
        return {"low_res_fraction": n_low / len(steps), "low_res_scale": knobs.low_res_scale if n_low else 1.0}

    def inert(self, knobs: Knobs, steps: Steps) -> str:  # noqa: D102
        return "low_res_fraction" if knobs.low_res_fraction > 0 and not self.acts(steps) else ""

    def words(self, knobs: Knobs, steps: Steps, guides: bool) -> str:  # noqa: D102
        n_low = _count_low(steps)
        first = "the first" if n_low == 1 else f"the first {n_low}"
        return f"{first} at {knobs.low_res_scale:g} of the side" if n_low else ""

    def narrow(self, grids: dict[str, tuple[float, ...]], card: Any, latent: tuple[int, int]) -> None:  # noqa: D102
        sizes: dict[tuple[int, int], float] = {}
        for scale in sorted(grids["low_res_scale"]):
            try:
                sizes.setdefault(low_res_size(*latent, scale, card.latent_multiple), scale)
            except KnobError:
                continue
        grids["low_res_scale"] = tuple(sizes.values())

    def admit(self, family: Family, knobs: Knobs, guides: bool | None = None) -> None:  # noqa: D102
        if family.low_res_refusal:
            raise UnsupportedError(
                f"low_res_fraction={knobs.low_res_fraction:g} with {family.pipeline_class}",
                family.low_res_refusal,
                "set low_res_fraction=0 for it",
            )

    def attach(self, network: Any, knobs: Knobs, steps: Steps, name: str) -> Part:
        """Nothing is put on the network itself: it takes any size. What names the size is given for that size."""
        return _Size(denoiser_of(network).resized)

    def fired(self, steps: Steps, summary: Any) -> tuple[Fired, ...]:  # noqa: D102
        switched = any(step.switched for step in summary.steps)
        return (Fired("low-resolution steps", self.acts(steps), switched),)

    def probes(self, mixed: Knobs, probing: Probing) -> tuple[Knobs, ...]:
        """At each β 4 guided and 4 conditional steps; full: cross-attention live once, then cached."""
        if "low_res_fraction" not in probing.applicable:
            return ()
        low = replace(mixed, num_inference_steps=12, low_res_fraction=2 / 3, low_res_scale=0.5)
        low = replace(low, guidance_fraction=1 / 3 if mixed.guidance_fraction < 1 else 1.0)
        found = [replace(low, low_res_scale=scale) for scale in probing.scales]
        if mixed.cache_interval > 1 and not probing.quick:
            found += [replace(low, low_res_scale=scale, cache_interval=1) for scale in probing.scales[:1]]
        return tuple(found)

    def key(self, kind: StepKind, knobs: Knobs, deployment: Deployment) -> Mapping[str, Any]:
        """Low-resolution steps are cheaper by their size."""
        latent = deployment.latent
        if kind.low_res:
            latent = low_res_size(*latent, knobs.low_res_scale, deployment.multiple)
        return {"height": latent[0], "width": latent[1]}


@lru_cache(maxsize=1024)
def _columns(total: int, n_low: int) -> Columns:
    return {
        "low_res": tuple(i < n_low for i in range(total)),
        "switch": tuple(i == n_low - 1 for i in range(total)),
    }


def _count_low(steps: Steps) -> int:
    return sum(step.low_res for step in steps)


class _Size(Part):
    """Inputs that go with the size of a low-resolution latent.

    A control image is shrunk once in a run: the pipeline passes the same one at every step, or half of it.
    """

    def __init__(self, resized: Resized) -> None:
        self.resized = resized
        #: Control images of the present run by what they are: the image itself, which keeps its memory, and it shrunk.
        self.shrunk: dict[tuple[Any, ...], tuple[Any, Any]] = {}

    def begin(self, call: NetworkCall) -> None:
        if call.step.low_res and call.size is not None and call.full_size is not None:
            call.kwargs = {**call.kwargs, **self.resized(call.kwargs, call.size, call.full_size)}

    def begin_control(self, call: NetworkCall) -> None:
        if call.step.low_res and call.full_size is not None:
            scale = (call.sample.shape[-2] / call.full_size[0], call.sample.shape[-1] / call.full_size[1])
            call.kwargs["controlnet_cond"] = self._shrunk(call.kwargs["controlnet_cond"], scale)

    def clear(self) -> None:
        self.shrunk = {}

    def detach(self) -> None:
        self.clear()

    def _shrunk(self, condition: Any, scale: tuple[float, float]) -> Any:
        """A control image, or a list of them, at the size that belongs to a low-resolution latent."""
        if isinstance(condition, (list, tuple)):
            return [self._shrunk(item, scale) for item in condition]
        size = (round(condition.shape[-2] * scale[0]), round(condition.shape[-1] * scale[1]))
        # A callback may replace the image or write into it; what inference mode made counts no writes.
        version = None if condition.is_inference() else condition._version
        key = (condition.data_ptr(), version, condition.shape, condition.stride(), condition.dtype, size)
        if key not in self.shrunk:
            self.shrunk[key] = condition, _pooled(condition, size)
        return self.shrunk[key][1]


def _pooled(image: Any, size: tuple[int, int]) -> Any:
    """An image (B, C, H, W) by the means of its areas at a smaller (height, width)."""
    from torch.nn import functional

    return functional.interpolate(image.float(), size=size, mode="area").to(image.dtype)


def low_res_size(height: int, width: int, scale: float, multiple: int) -> tuple[int, int]:
    """The low-resolution latent size: β·side rounded to the nearest multiple that the network accepts.

    Args:
        height, width: full latent size, in latent pixels.
        scale: β in [0.25, 1].
        multiple: the network's total down-sampling factor, or its patch size.

    Returns:
        (height, width) in latent pixels, each at least one multiple.

    Raises:
        KnobError: rounding leaves nothing smaller than the full size, so the knob would do nothing.
    """

    def side(full: int) -> int:
        return max(multiple, int(scale * full / multiple + 0.5) * multiple)

    low = side(height), side(width)
    if low[0] >= height and low[1] >= width:
        shortest = min(height, width)
        most = f"take a scale of at most {(shortest - multiple) / shortest:g}"
        raise KnobError(
            f"low_res_scale={scale:g} of a {height}×{width} latent",
            f"the nearest size the network accepts (multiples of {multiple}) is {low[0]}×{low[1]}, not smaller",
            most if shortest > multiple else "leave low-resolution steps out, or make larger images",
        )
    return low


def start_size(height: int, width: int, scale: float, multiple: int) -> tuple[int, int]:
    """``low_res_size`` of a run.

    Raises:
        KnobError: as there; or one side would have to grow.
    """
    size = low_res_size(height, width, scale, multiple)
    if size[0] > height or size[1] > width:
        raise KnobError(
            f"low_res_scale={scale:g} of a {height}×{width} latent",
            f"one side is smaller than {multiple}, the smallest that the network accepts",
            "take a larger image, or low_res_fraction=0",
        )
    return size


@lru_cache(maxsize=64)
def pooling_matrix(full: int, low: int) -> Any:
    """Area pooling that keeps white noise white, shape (low, full), float32.

    Row i of plain area pooling averages the full pixels under low pixel i, shared ones by their overlap. Its rows are
    orthonormalised symmetrically, (W·Wᵀ)^(−1/2)·W: the closest matrix with W·Wᵀ = 1, so every low pixel has unit
    variance and none is correlated with another, at non-integer ratios too. At integer ratios this is plain area
    pooling, rescaled.
    """
    import torch

    # Remembered, so it must be a normal tensor on the CPU wherever it is first asked for; some devices lack float64.
    with torch.inference_mode(False), torch.device("cpu"):
        return _pooling_matrix(full, low)


def _pooling_matrix(full: int, low: int) -> Any:
    import torch

    ratio = full / low
    edges = torch.arange(low + 1, dtype=torch.float64) * ratio
    pixels = torch.arange(full, dtype=torch.float64)
    left = torch.maximum(edges[:-1, None], pixels[None])
    right = torch.minimum(edges[1:, None], pixels[None] + 1)
    weights = (right - left).clamp_min(0)
    values, vectors = torch.linalg.eigh(weights @ weights.T)
    matrix = (vectors @ torch.diag(values.rsqrt()) @ vectors.T @ weights).float()
    return matrix


def coupled_noise(noise: Any, size: tuple[int, int]) -> Any:
    """Noise of the low size (B, C, *size) made from full-size noise; the same scale, pixels independent."""
    rows = pooling_matrix(noise.shape[-2], size[0]).to(noise.device)
    columns = pooling_matrix(noise.shape[-1], size[1]).to(noise.device)
    return (rows @ noise.float() @ columns.T).to(noise.dtype)


def low_res_start(latents: Any, size: tuple[int, int], mode: str, scale: float, generator: Any) -> Any:
    """The low-resolution starting latent.

    Args:
        latents: the pipeline's full-size starting latent, already scaled by ``scale``, (B, C, H, W).
        size: low-resolution (height, width).
        mode: ``independent`` draws it; every other mode pools the latents.
        scale: the scheduler's initial noise standard deviation.
        generator: the caller's generator or generators, or None.
    """
    if mode == "independent":
        return fresh_noise(latents, size, generator) * scale
    return coupled_noise(latents, size)


def fresh_noise(like: Any, size: tuple[int, int], generator: Any) -> Any:
    """Standard normal noise of the batch, channels, device and dtype of ``like``."""
    from diffusers.utils.torch_utils import randn_tensor

    return randn_tensor((*like.shape[:2], *size), generator=generator, device=like.device, dtype=like.dtype)


def upsample(clean: Any, size: tuple[int, int]) -> Any:
    """Bilinear up-sampling of a clean latent to (height, width)."""
    from torch.nn import functional

    return functional.interpolate(clean, size=size, mode="bilinear", align_corners=False)
