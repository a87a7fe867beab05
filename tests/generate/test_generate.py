"""Images from prompts and seeds, through exactly the pipeline that a deployment runs."""

from dataclasses import replace

import pipelines as P
import pytest
import torch

from postdiff_calib.accelerate import enable, summary
from postdiff_calib.errors import UsageError
from postdiff_calib.generate.images import generate
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.knobs import Knobs

FULL = Knobs(4, low_res_fraction=0.5, low_res_scale=0.5, cache_interval=2, guidance_fraction=0.75)
CALL = {"height": 128, "width": 128, "guidance_scale": 5.0}


def settings(**changes):
    return GenerationSettings(**{**CALL, **changes})


def test_baseline_is_the_stock_pipeline():
    pipe = P.sd("dpm")
    before = P.fingerprint(pipe)
    (images,) = generate(pipe, Knobs(4), P.PROMPTS, [7, 8, 9], settings(batch_size=3))
    assert P.fingerprint(pipe) == before
    stock = pipe(P.PROMPTS, num_inference_steps=4, generator=P.generators(3), output_type="pt", **CALL).images
    assert torch.equal(images, stock)
    assert images.shape == (3, 3, 128, 128)
    assert images.dtype == torch.float32
    assert 0 <= float(images.min()) < float(images.max()) <= 1


def test_batches_and_order():
    pipe = P.sd("dpm")
    together = torch.cat(list(generate(pipe, FULL, P.PROMPTS, [7, 8, 9], settings(batch_size=3))))
    batches = list(generate(pipe, FULL, P.PROMPTS, [7, 8, 9], settings(batch_size=2)))
    assert [len(batch) for batch in batches] == [2, 1]
    assert torch.allclose(torch.cat(batches), together, atol=1e-3)
    changed = torch.cat(list(generate(pipe, FULL, P.PROMPTS, [7, 8, 1], settings(batch_size=3))))
    assert torch.equal(changed[:2], together[:2])
    assert not torch.equal(changed[2], together[2])


def test_runs_may_be_interleaved():
    pipe = P.sd("ddim")
    arguments = (P.PROMPTS, [7, 8, 9])
    alone = [list(generate(pipe, knobs, *arguments, settings(batch_size=1))) for knobs in (Knobs(4), FULL)]
    pairs = list(zip(*(generate(pipe, k, *arguments, settings(batch_size=1)) for k in (Knobs(4), FULL)), strict=True))
    for i, pair in enumerate(pairs):
        assert torch.equal(pair[0], alone[0][i])
        assert torch.equal(pair[1], alone[1][i])


def test_equal_to_a_deployed_pipeline_and_leaves_it_enabled():
    pipe = P.sd("ddim")
    (ours,) = generate(pipe, FULL, P.PROMPTS, [7, 8, 9], settings(batch_size=3))
    enable(pipe, FULL)
    deployed = pipe(P.PROMPTS, generator=P.generators(3), output_type="pt", **CALL).images
    assert torch.equal(ours, deployed)
    hooks = pipe.__dict__["_postdiff"]
    (again,) = generate(pipe, FULL, P.PROMPTS, [7, 8, 9], settings(batch_size=3))
    assert torch.equal(again, deployed)
    assert pipe.__dict__["_postdiff"] is hooks
    next(iter(generate(pipe, Knobs(3), P.PROMPTS[:1], [7], settings(batch_size=1))))
    pipe(P.PROMPTS, output_type="latent", **CALL)
    assert len(summary(pipe).steps) == 4


def test_negative_prompt_and_progress_bar():
    pipe = P.sd("ddim")
    pipe._progress_bar_config = {"leave": False}
    (plain,) = generate(pipe, Knobs(2), P.PROMPTS[:1], [7], settings(batch_size=1))
    (negative,) = generate(pipe, Knobs(2), P.PROMPTS[:1], [7], settings(batch_size=1), negative_prompt="blue")
    assert not torch.equal(plain, negative)
    assert pipe._progress_bar_config == {"leave": False}


def test_refusals():
    pipe = P.sd("ddim")
    with pytest.raises(UsageError, match="3 prompts and 1 seeds"):
        generate(pipe, Knobs(2), P.PROMPTS, [7], settings(batch_size=1))
    with pytest.raises(UsageError, match="batch_size=0"):
        generate(pipe, Knobs(2), P.PROMPTS, [7, 8, 9], settings(batch_size=0))
    # Knobs that round to nothing are a point of the search like any other.
    (images,) = generate(pipe, Knobs(2, guidance_fraction=0.9), P.PROMPTS[:1], [7], settings(batch_size=1))
    assert torch.isfinite(images).all()


def test_the_short_path_is_the_same_function():
    import postdiff_calib.generate as package

    assert package.generate is generate
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


def test_guidance_is_passed_as_the_pipeline_takes_it():
    # Qwen-Image guides with a scale of another name and a negative prompt, one for each prompt.
    pipe, options = P.qwen_image(), GenerationSettings(128, 128, 4.0, 2)
    ours = torch.cat(list(generate(pipe, Knobs(3), P.PROMPTS, [7, 8, 9], options)))
    made = [
        pipe(
            P.PROMPTS[first:last],
            negative_prompt=[" "] * (last - first),
            true_cfg_scale=4.0,
            num_inference_steps=3,
            generator=P.generators(3)[first:last],
            output_type="pt",
            height=128,
            width=128,
        ).images
        for first, last in ((0, 2), (2, 3))
    ]
    assert torch.equal(ours, torch.cat(made))
    unguided = torch.cat(list(generate(pipe, Knobs(3), P.PROMPTS, [7, 8, 9], replace(options, guidance_scale=1.0))))
    assert not torch.equal(ours, unguided)
