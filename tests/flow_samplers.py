"""What the samplers written out share: rectified flow by hand, with no hooks and no scheduler's step.

x_σ = (1 − σ)·x₀ + σ·ε and v = ε − x₀; images of 128, latents of 16, low-resolution ones of 8.
"""

import pipelines as P
import scipy.fft
import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift
from diffusers.utils.torch_utils import randn_tensor
from torch.nn import functional as F

from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.techniques.noise import SWITCH_WAYS

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
#: All techniques together, each way to full resolution that is not the default, and both kinds of noise.
WAYS = [(way, noise) for way in SWITCH_WAYS if way != "renoise" for noise in ("complement", "coupled")]


def case_name(value):
    return value if isinstance(value, str) else value.describe()


def low_start(full):
    """Every low pixel is the sum of four, halved: white noise stays white."""
    return F.avg_pool2d(full, 2) * 2


def spread(low):
    """The transpose of ``low_start``: half a low pixel in each of its four."""
    return F.interpolate(low, size=FULL, mode="nearest") / 2


def cosines(x, back=False):
    """The cosine transform of the last two axes, and back."""
    transform = scipy.fft.idctn if back else scipy.fft.dctn
    return torch.from_numpy(transform(x.numpy(), axes=(-2, -1), norm="ortho"))


class Noise:
    """The noise of one run.

    Args:
        count: images.
        mode: ``complement`` keeps the noise that the low steps had and adds the seed's own in the other bands;
            ``coupled`` draws anew at the switch.
        way: from low to full resolution.
    """

    def __init__(self, count, mode, way="renoise"):
        self.generators, self.mode, self.way = P.generators(count), mode, way
        self.full = randn_tensor((count, 4, *FULL), generator=self.generators)

    def start(self, plan):
        if not plan.n_low:
            return self.full
        return cosines(cosines(self.full)[..., :8, :8], back=True) if "expand" in self.way else low_start(self.full)

    def grid(self, sigmas, plan):
        """The levels of the run; low-resolution steps and what they lead to may have others: σ/(2 − σ) at half size."""
        self.schedule, count = sigmas.clone(), plan.n_low + 1 if plan.n_low else 0
        if "own-grid" not in self.way:
            return sigmas.clone()
        return torch.cat([sigmas[:count] / (2 - sigmas[:count]), sigmas[count:]])

    def expanded(self, x, sigmas, following):
        """The low state as the low bands of a full one: the time goes back, and the rest of the run starts there."""
        sigma = sigmas[following].clone()
        fresh = self.full if self.mode == "complement" else randn_tensor(self.full.shape, generator=self.generators)
        bands = sigma * cosines(fresh)
        bands[..., :8, :8] = cosines(x)
        back = 2 * sigma / (1 + sigma)
        if "own-grid" in self.way:
            assert torch.isclose(back, self.schedule[following])
            sigmas[following:] = self.schedule[following:]
        else:
            sigmas[following:] *= back / sigma
        return 2 / (1 + sigma) * cosines(bands, back=True)

    def switched(self, x, v, sigma, following):
        """The full-resolution sample after the last low-resolution step."""
        clean = F.interpolate(x - sigma * v, size=FULL, mode="bilinear", align_corners=False)
        if self.mode == "complement":
            noise = spread(x + (1 - sigma) * v) + self.full - spread(low_start(self.full))
        else:
            noise = randn_tensor(clean.shape, generator=self.generators)
        return (1 - following) * clean + following * noise

    def step(self, x, v, sigmas, i, plan):
        """One Euler step, or the switch; that may change the levels that follow."""
        if plan[i].switch and "expand" in self.way:
            return self.expanded(x + (sigmas[i + 1] - sigmas[i]) * v, sigmas, i + 1)
        if plan[i].switch:
            sigmas[i + 1 :] = self.schedule[i + 1 :]
            return self.switched(x, v, sigmas[i], sigmas[i + 1])
        return x + (sigmas[i + 1] - sigmas[i]) * v


def reused(plan):
    """The blocks of six that a reuse step skips: all but both ends, and for branch 0 all but the first."""
    return range(1, 6) if plan.knobs.cache_branch == 0 else range(1, 5)


def close(ours, reference):
    assert ours.shape == reference.shape
    assert torch.allclose(ours, reference, rtol=1e-4, atol=1e-4 * float(reference.abs().max()))


def tokens(x):
    """(B, C, h, w) to a row of 2 × 2 patches."""
    b, c, h, w = x.shape
    return F.unfold(x, 2, stride=2).view(b, c * 4, h // 2 * (w // 2)).transpose(1, 2)


def picture(z, size):
    return F.fold(z.transpose(1, 2), size, 2, stride=2)


def two_calls(network, knobs, noise, c, u, scale, rescaled, count=2, way="renoise"):
    """A loop with a network call for each half on packed latents; ``rescaled`` makes of both what the step takes."""
    plan = compile_plan(knobs)
    shift = torch.tensor(calculate_shift(64, 4, 100, 0.5, 1.15)).exp()
    even = torch.linspace(1, 1 / len(plan), len(plan))
    sigmas = torch.cat([shift / (shift + (1 / even - 1)), torch.zeros(1)])
    made = Noise(count, noise, way)
    x, sigmas = made.start(plan), made.grid(sigmas, plan)
    network.span = reused(plan)
    for i, step in enumerate(plan):
        size = tuple(x.shape[-2:])
        v = given = network(tokens(x), sigmas[i], *c, size, "conditional", step.refresh)
        if scale > 1 and step.guided:
            without = network(tokens(x), sigmas[i], *u, size, "unconditional", step.refresh)
            v = rescaled(without + scale * (given - without), given)
        v = picture(v, size)
        x = made.step(x, v, sigmas, i, plan)
    return tokens(x)
