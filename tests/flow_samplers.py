"""What the samplers written out share: rectified flow by hand, with no hooks and no scheduler's step.

x_σ = (1 − σ)·x₀ + σ·ε and v = ε − x₀; images of 128, latents of 16, low-resolution ones of 8.
"""

import pipelines as P
import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift
from diffusers.utils.torch_utils import randn_tensor
from torch.nn import functional as F

from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan

SIZE = {"height": 128, "width": 128}
FULL, LOW = (16, 16), (8, 8)
KNOBS = [
    Knobs(5),
    Knobs(5, cache_interval=2),
    Knobs(6, cache_interval=3, cache_branch=0),
    Knobs(6, guidance_fraction=0.5),
    # The gate is on a reuse step: what was kept of both halves is used for one.
    Knobs(6, cache_interval=2, guidance_fraction=0.5),
    Knobs(6, low_res_fraction=0.5, low_res_scale=0.5),
    Knobs(6, low_res_fraction=1 / 6, low_res_scale=0.5),
    Knobs(8, low_res_fraction=0.5, low_res_scale=0.5, cache_interval=2, guidance_fraction=0.6),
    Knobs(8, low_res_fraction=0.5, low_res_scale=0.5, cache_interval=3, guidance_fraction=0.3),
]
#: Knobs, and the noise at the switch where there is one.
CASES = [
    (knobs, noise)
    for knobs in KNOBS
    for noise in (("complement", "coupled") if knobs.low_res_fraction else ("coupled",))
]


def case_name(value):
    return value if isinstance(value, str) else value.describe()


def low_start(full):
    """Every low pixel is the sum of four, halved: white noise stays white."""
    return F.avg_pool2d(full, 2) * 2


def spread(low):
    """The transpose of ``low_start``: half a low pixel in each of its four."""
    return F.interpolate(low, size=FULL, mode="nearest") / 2


class Noise:
    """The noise of one run.

    Args:
        count: images.
        mode: ``complement`` keeps the noise that the low steps had and adds the seed's own in the other bands;
            ``coupled`` draws anew at the switch.
    """

    def __init__(self, count, mode):
        self.generators, self.mode = P.generators(count), mode
        self.full = randn_tensor((count, 4, *FULL), generator=self.generators)

    def start(self, plan):
        return low_start(self.full) if plan.n_low else self.full

    def switched(self, x, v, sigma, following):
        """The full-resolution sample after the last low-resolution step."""
        clean = F.interpolate(x - sigma * v, size=FULL, mode="bilinear", align_corners=False)
        if self.mode == "complement":
            noise = spread(x + (1 - sigma) * v) + self.full - spread(low_start(self.full))
        else:
            noise = randn_tensor(clean.shape, generator=self.generators)
        return (1 - following) * clean + following * noise

    def step(self, x, v, sigmas, i, plan):
        """One Euler step, or the switch."""
        if plan[i].switch:
            return self.switched(x, v, sigmas[i], sigmas[i + 1])
        return x + (sigmas[i + 1] - sigmas[i]) * v


def close(ours, reference):
    assert ours.shape == reference.shape
    assert torch.allclose(ours, reference, rtol=1e-4, atol=1e-4 * float(reference.abs().max()))


def tokens(x):
    """(B, C, h, w) to a row of 2 × 2 patches."""
    b, c, h, w = x.shape
    return F.unfold(x, 2, stride=2).view(b, c * 4, h // 2 * (w // 2)).transpose(1, 2)


def picture(z, size):
    return F.fold(z.transpose(1, 2), size, 2, stride=2)


def two_calls(network, knobs, noise, c, u, scale, rescaled, count=2):
    """A loop with a network call for each half on packed latents; ``rescaled`` makes of both what the step takes."""
    plan = compile_plan(knobs)
    shift = torch.tensor(calculate_shift(64, 4, 100, 0.5, 1.15)).exp()
    even = torch.linspace(1, 1 / len(plan), len(plan))
    sigmas = torch.cat([shift / (shift + (1 / even - 1)), torch.zeros(1)])
    made = Noise(count, noise)
    x = made.start(plan)
    for i, step in enumerate(plan):
        size = tuple(x.shape[-2:])
        v = given = network(tokens(x), sigmas[i], *c, size, "conditional", step.refresh)
        if scale > 1 and step.guided:
            without = network(tokens(x), sigmas[i], *u, size, "unconditional", step.refresh)
            v = rescaled(without + scale * (given - without), given)
        v = picture(v, size)
        x = made.step(x, v, sigmas, i, plan)
    return tokens(x)
