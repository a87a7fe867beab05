"""Every supported family: identity, every combination of techniques, and independent references beyond SD's."""

from itertools import combinations

import pipelines as P
import pytest
import torch
from diffusers.callbacks import SDXLCFGCutoffCallback
from torch.nn import functional as F

from postdiff_calib.accelerate import FAMILIES, accelerated, enable, family_of, summary
from postdiff_calib.errors import UnsupportedError
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan

TECHNIQUES = {
    "s": {"low_res_fraction": 0.5, "low_res_scale": 0.5},
    "k": {"cache_interval": 2},
    "m": {"guidance_fraction": 0.75},
}
#: Every single technique, every pair, and all of them; the last with the gate inside the low-resolution phase.
COMBINATIONS = [
    {name: value for key in keys for name, value in TECHNIQUES[key].items()}
    for count in (1, 2, 3)
    for keys in combinations(TECHNIQUES, count)
]
COMBINATIONS.append({**COMBINATIONS[-1], "guidance_fraction": 0.3})
SIZE = {"height": 128, "width": 128}


@pytest.fixture(scope="module")
def family():
    """Pipelines by family name, built once; every test leaves them stock."""
    built = {}

    def get(name):
        if name not in built:
            built[name] = P.FAMILIES[name][0]()
        return built[name], {**SIZE, **P.FAMILIES[name][1]}

    return get


def follows(run, plan, guides=True, two_calls=False):
    """What ran is what the plan says, row by row."""
    assert len(run.steps) == len(plan)
    for step, row in zip(run.steps, plan, strict=True):
        assert step.network_calls == (2 if two_calls and row.guided else 1)
        assert step.latent_size == ((8, 8) if row.low_res else (16, 16))
        assert step.batch == (6 if guides and row.guided else 3)
        assert (step.layers_skipped == 0) == row.refresh
        assert step.switched == row.switch
        if not row.cross_attention_live:
            assert step.cross_attention_live == 0
        elif row.refresh:
            assert step.cross_attention_cached == 0


def test_every_family_is_tested():
    covered = {type(P.FAMILIES[name][0]()).__name__ for name in P.FAMILIES}
    covered |= {"StableDiffusionImg2ImgPipeline", "StableDiffusionXLImg2ImgPipeline"}
    assert covered == {family.pipeline_class for family in FAMILIES}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n == "sdxl-controlnet" else n for n in P.FAMILIES if n != "sd"],
)
def test_identity(name, family):
    pipe, call = family(name)
    single = {**call, **({"image": call["image"][:1]} if "image" in call else {})}
    for count, arguments in ((1, single), (3, call)):
        for scheduler in P.SCHEDULERS if name.startswith(("sdxl", "pixart")) and count == 3 else [None]:
            if scheduler:
                pipe.scheduler = P.scheduler(scheduler)
            stock = P.latents(pipe, count, num_inference_steps=3, **arguments)
            with accelerated(pipe, Knobs(3)):
                assert torch.equal(P.latents(pipe, count, **arguments), stock)
            assert torch.equal(P.latents(pipe, count, num_inference_steps=3, **arguments), stock)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if "controlnet" in n else n for n in P.FAMILIES]
)
def test_every_combination_follows_its_plan(name, family):
    pipe, call = family(name)
    images = [P.latents(pipe, num_inference_steps=8, **call)]
    before = P.fingerprint(pipe)  # after a call: text encoders that hand out all their layers put hooks on themselves
    for changes in COMBINATIONS:
        knobs = P.suited(pipe, Knobs(8, **changes))
        with accelerated(pipe, knobs):
            images.append(P.latents(pipe, **call))
            stated = family_of(pipe)
            follows(summary(pipe), compile_plan(knobs), stated.guides, stated.guidance == "two calls")
        assert torch.isfinite(images[-1]).all()
        assert not any(torch.equal(images[-1], other) for other in images[:-1])
    assert P.fingerprint(pipe) == before
    assert torch.equal(P.latents(pipe, num_inference_steps=8, **call), images[0])


@pytest.mark.parametrize("branch", [0, 1, 2])
@pytest.mark.parametrize("name", ["sdxl", "controlnet"])
def test_equal_to_deepcache(name, branch, family):
    from DeepCache import DeepCacheSDHelper

    pipe, call = family(name)
    with accelerated(pipe, Knobs(5, cache_interval=2, cache_branch=branch)):
        ours = P.latents(pipe, **call)
    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=2, cache_branch_id=branch)
    helper.enable()
    reference = P.latents(pipe, num_inference_steps=5, **call)
    helper.disable()
    assert torch.equal(ours, reference)
    P.without_forward_attributes(pipe)


def test_sdxl_equal_to_the_cut_off_callback():
    pipe = P.sdxl("euler")
    callback = SDXLCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=2)
    reference = P.latents(pipe, 1, num_inference_steps=6, callback_on_step_end=callback)
    with accelerated(pipe, Knobs(6, guidance_fraction=0.5, cross_attention_cache="off")):
        assert torch.equal(P.latents(pipe, 1), reference)


@pytest.mark.parametrize("name", ["sdxl", "pixart-alpha", "pixart-sigma"])
def test_mean_equal_to_tgate(name):
    import tgate

    build, call = P.FAMILIES[name]
    loader = {
        "sdxl": tgate.TgateSDXLLoader,
        "pixart-alpha": tgate.TgatePixArtAlphaLoader,
        "pixart-sigma": tgate.TgatePixArtSigmaLoader,
    }[name]
    pipe = loader(build(), gate_step=3, num_inference_steps=6)
    options = {"gate_step": 3, "sp_interval": 1, "fi_interval": 1, "warm_up": 0, "num_inference_steps": 6}
    prompts = {"prompt": P.PROMPTS}
    if name == "sdxl":
        # Past the gate the package conditions SDXL on the NEGATIVE pooled text; ours stays with the conditional half.
        # With one pooled text for both halves the two are the same.
        text, negative, pooled, _ = pipe.encode_prompt(P.PROMPTS, device="cpu")
        prompts = {"prompt_embeds": text, "negative_prompt_embeds": negative}
        prompts |= {"pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": pooled}
    common = {**prompts, **SIZE, **call, "output_type": "latent"}
    reference = pipe.tgate(generator=P.generators(3), **options, **common).images
    pipe = build()
    with accelerated(pipe, Knobs(6, guidance_fraction=0.5, cross_attention_cache="mean")):
        ours = pipe(generator=P.generators(3), **common).images
    assert torch.equal(ours, reference)
    with accelerated(pipe, Knobs(6, guidance_fraction=0.5)):
        assert not torch.equal(pipe(generator=P.generators(3), **common).images, reference)


@torch.no_grad()
def test_transformer_span_reuses_its_residual(family):
    # Six blocks, branch 1: one live at each end. A plain loop over the blocks of one network call after another.
    pipe, _ = family("pixart-sigma")
    network = pipe.transformer
    seen = []
    with accelerated(pipe, Knobs(2, cache_interval=2)):
        first = network.transformer_blocks[0].register_forward_hook(lambda _, __, out: seen.append(out))
        last = network.transformer_blocks[5].register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
        P.latents(pipe, **{**SIZE, **P.FAMILIES["pixart-sigma"][1]})
        first.remove()
        last.remove()
    into_refresh, out_of_refresh, into_reuse, out_of_reuse = seen
    assert torch.equal(out_of_reuse, into_reuse + (out_of_refresh - into_refresh))


@pytest.mark.parametrize("noise", ["coupled", "complement"])
@pytest.mark.parametrize("total", [4, 8])
@torch.no_grad()
def test_lcm_equal_to_a_plain_loop(total, noise):
    from diffusers.utils.torch_utils import randn_tensor

    pipe = P.lcm()
    knobs = Knobs(total, low_res_fraction=0.5, low_res_scale=0.5)
    with accelerated(pipe, knobs, noise=noise):
        ours = P.latents(pipe, **SIZE)
    text = pipe.encode_prompt(P.PROMPTS, "cpu", 1, False)[0]
    weight = pipe.get_guidance_scale_embedding(torch.tensor(8.5 - 1).repeat(3), embedding_dim=8)
    generators = P.generators(3)
    scheduler = pipe.scheduler
    scheduler.set_timesteps(total)
    start = randn_tensor((3, 4, 16, 16), generator=generators)
    x = pooled = F.avg_pool2d(start, 2) * 2
    for i, t in enumerate(scheduler.timesteps):
        output = pipe.unet(x, t, timestep_cond=weight, encoder_hidden_states=text, return_dict=False)[0]
        result = scheduler.step(output, t, x, generator=generators)
        x, clean = result.prev_sample, result.denoised
        if i == total // 2 - 1:
            product = scheduler.alphas_cumprod[scheduler.timesteps[i + 1]]
            clean = F.interpolate(clean, size=(16, 16), mode="bilinear")
            if noise == "complement":
                # The network's output is the noise estimate, whatever the boundary condition makes of the clean latent.
                drawn = start + F.interpolate(output - pooled, scale_factor=2, mode="nearest") / 2
            else:
                drawn = randn_tensor((3, 4, 16, 16), generator=generators)
            x = product.sqrt() * clean + (1 - product).sqrt() * drawn
    assert torch.allclose(ours, clean, rtol=1e-4, atol=1e-4 * float(clean.abs().max()))


def test_lcm_has_no_guidance_to_drop(family):
    pipe, call = family("lcm")
    with pytest.raises(UnsupportedError, match="no unconditional half to drop"):
        enable(pipe, Knobs(4, guidance_fraction=0.5, cross_attention_cache="off"))
    with accelerated(pipe, Knobs(4, guidance_fraction=0.5)):
        P.latents(pipe, **call)
        assert [step.cross_attention_cached for step in summary(pipe).steps] == [0, 0, 16, 16]


def test_control_network_runs_small_and_halved(family):
    pipe, call = family("controlnet")
    seen = []
    handle = pipe.controlnet.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    with accelerated(pipe, Knobs(4, guidance_fraction=0.75, **TECHNIQUES["s"])):
        # Hooks run in the order they were put on: ours comes after the one above, so register it again.
        handle.remove()
        handle = pipe.controlnet.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True
        )
        P.latents(pipe, **call)
        handle.remove()
        assert [step.control_calls for step in summary(pipe).steps] == [1, 1, 1, 1]
    assert [kwargs["sample"].shape[0] for kwargs in seen] == [6, 6, 6, 3]
    assert [tuple(kwargs["controlnet_cond"].shape[2:]) for kwargs in seen] == [(64, 64)] * 2 + [(128, 128)] * 2
    assert [kwargs["controlnet_cond"].shape[0] for kwargs in seen] == [6, 6, 6, 3]


@pytest.fixture
def pooled(monkeypatch):
    """Sizes that images were shrunk to by areas."""
    sizes, stock = [], F.interpolate

    def interpolate(image, **options):
        if options.get("mode") == "area":
            sizes.append((image.shape[0], options["size"]))
        return stock(image, **options)

    monkeypatch.setattr(F, "interpolate", interpolate)
    return sizes


def test_a_control_image_is_shrunk_once_in_a_run(family, pooled):
    pipe, call = family("controlnet")
    with accelerated(pipe, Knobs(6, low_res_fraction=0.67, low_res_scale=0.5)):
        P.latents(pipe, **call)
        assert pooled == [(6, (64, 64))]
        P.latents(pipe, **call)  # nothing is kept from one run to the next
        assert pooled == [(6, (64, 64))] * 2
    pooled.clear()
    with accelerated(pipe, Knobs(6, low_res_fraction=0.67, low_res_scale=0.5, guidance_fraction=0.34)):
        P.latents(pipe, **call)
    assert pooled == [(6, (64, 64)), (3, (64, 64))]  # the conditional half is another batch


@pytest.mark.parametrize("inside", [True, False])
def test_a_control_image_that_a_callback_replaces_is_shrunk_again(family, pooled, inside):
    pipe, call = family("controlnet")
    seen = []

    def replace_image(pipe, step, timestep, given):
        if step == 1:
            if inside:
                given["image"].mul_(0.5)
            else:
                given["image"] = given["image"] * 0.5
        return given

    with accelerated(pipe, Knobs(6, low_res_fraction=0.67, low_res_scale=0.5)):
        handle = pipe.controlnet.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs["controlnet_cond"]), with_kwargs=True
        )
        P.latents(pipe, **call, callback_on_step_end=replace_image, callback_on_step_end_tensor_inputs=["image"])
        handle.remove()
    assert pooled == [(6, (64, 64))] * 2
    assert torch.equal(seen[2], seen[1] * 0.5)
    assert torch.equal(seen[3], seen[2])


@pytest.mark.parametrize("guess_mode", [False, True])
def test_several_control_networks(guess_mode):
    from diffusers import StableDiffusionControlNetPipeline

    one = P.controlnet(P.sd("ddim"))
    parts = {**one.components, "controlnet": [one.controlnet, P.controlnet(P.sd("ddim", seed=1)).controlnet]}
    pipe = P.quiet(StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False))
    images = [P.condition_image(3, 128, 128), P.condition_image(3, 128, 128).flip(0)]
    call = {**SIZE, "image": images, "controlnet_conditioning_scale": [0.5, 1.0], "guess_mode": guess_mode}
    stock = P.latents(pipe, num_inference_steps=4, **call)
    with accelerated(pipe, Knobs(4)):
        assert torch.equal(P.latents(pipe, **call), stock)
    for changes in COMBINATIONS[:3] + COMBINATIONS[-1:]:
        with accelerated(pipe, Knobs(8, **changes)):
            assert torch.isfinite(P.latents(pipe, **call)).all()
            follows(summary(pipe), compile_plan(Knobs(8, **changes)))
    assert torch.equal(P.latents(pipe, num_inference_steps=4, **call), stock)


def test_pixart_with_resolution_binning_at_512_and_1024():
    pipe = P.pixart()
    for side in (512, 1024):
        with accelerated(pipe, Knobs(2, low_res_scale=0.75, low_res_fraction=0.5, guidance_fraction=0.5)):
            images = P.latents(pipe, 1, height=side, width=side, clean_caption=False)
            assert images.shape == (1, 4, 128, 128)  # this network's bins are those of 1024²
            assert [step.latent_size for step in summary(pipe).steps] == [(96, 96), (128, 128)]
