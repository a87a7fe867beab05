"""``sigmas=`` of a call: what counts is how many steps the scheduler makes of them."""

import pipelines as P
import pytest
import torch

from postdiff_calib.accelerate import disable, enable, summary
from postdiff_calib.errors import UsageError
from postdiff_calib.knobs import Knobs

SIZE = {"height": 128, "width": 128}
#: diffusers' ``AysSchedules["StableDiffusionXLSigmas"]``: ten steps, eleven entries.
AYS = [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.38, 0.234, 0.113, 0.0]


def test_the_published_schedule_is_this_one():
    from diffusers.schedulers import AysSchedules

    assert AysSchedules["StableDiffusionXLSigmas"] == AYS


@pytest.mark.parametrize("build", [P.sd, P.sdxl], ids=["sd", "sdxl"])
def test_eulers_sigmas_have_one_entry_more_than_steps(build):
    pipe = build("euler")
    stock = P.latents(pipe, sigmas=AYS, **SIZE)
    enable(pipe, Knobs(10))
    assert torch.equal(P.latents(pipe, sigmas=AYS, **SIZE), stock)
    assert len(summary(pipe).steps) == 10
    disable(pipe)
    enable(pipe, Knobs(10, 0.5, 0.5, 2, 0.5))
    latents = P.latents(pipe, sigmas=AYS, **SIZE)
    assert latents.isfinite().all()
    assert latents.shape == stock.shape


def test_sigmas_for_another_number_of_steps_are_refused_with_what_they_make():
    pipe = P.sd("euler")
    enable(pipe, Knobs(10))
    with pytest.raises(UsageError, match="sigmas with 10 entries: EulerDiscreteScheduler makes 9 steps of them"):
        P.latents(pipe, sigmas=[*AYS[:9], 0.0], **SIZE)
    assert "step" not in pipe.scheduler.__dict__
    P.latents(pipe, sigmas=AYS, **SIZE)
    P.latents(pipe, **SIZE)
