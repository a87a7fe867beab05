"""Techniques together with what else a pipeline may carry: adapters, tiling, offloading, compilation, images."""

import pipelines as P
import pytest
import torch

from postdiff_calib.accelerate import accelerated, disable, enable, summary
from postdiff_calib.errors import UnsupportedError, UsageError
from postdiff_calib.knobs import Knobs

FULL = Knobs(6, low_res_fraction=0.5, low_res_scale=0.5, cache_interval=2, guidance_fraction=0.75)
NO_LOW = Knobs(8, cache_interval=2, guidance_fraction=0.75)
SIZE = {"height": 128, "width": 128}


def test_lora_before_and_after_enabling():
    from peft import LoraConfig

    def add(pipe):
        torch.manual_seed(5)
        pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False))
        return pipe

    plain, before, after = P.sd("dpm"), add(P.sd("dpm")), P.sd("dpm")
    stock = P.latents(before, num_inference_steps=6, **SIZE)
    for pipe in (plain, before, after):
        enable(pipe, FULL)
    add(after)
    images = P.latents(before, **SIZE)
    assert torch.equal(P.latents(after, **SIZE), images)
    assert not torch.equal(P.latents(plain, **SIZE), images)
    scaled = P.latents(before, cross_attention_kwargs={"scale": 0.5}, **SIZE)
    assert not torch.equal(scaled, images)
    disable(after)
    assert torch.equal(P.latents(after, num_inference_steps=6, **SIZE), stock)


def ip_adapter(pipe):
    """Random weights of an IP-Adapter for every cross-attention layer, four tokens per image."""
    generator = torch.Generator().manual_seed(4)
    state, number = {}, 1
    for name, processor in pipe.unet.attn_processors.items():
        if "attn2" in name:
            width = pipe.unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
            for part in ("to_k_ip", "to_v_ip"):
                state[f"{number}.{part}.weight"] = torch.randn(width, P.TEXT, generator=generator) / 4
            number += 2
        assert processor is not None
    projection = {
        "proj.weight": torch.randn(4 * P.TEXT, P.TEXT, generator=generator) / 4,
        "proj.bias": torch.zeros(4 * P.TEXT),
        "norm.weight": torch.ones(P.TEXT),
        "norm.bias": torch.zeros(P.TEXT),
    }
    pipe.unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": state}])
    pipe.set_ip_adapter_scale(0.8)


def test_ip_adapter_embeddings_are_halved_with_the_batch():
    pipe = P.sd("ddim")
    without = P.latents(pipe, num_inference_steps=4, **SIZE)
    ip_adapter(pipe)
    # One adapter; [negative, positive], which the pipeline repeats for three images.
    embeddings = [torch.randn(2, 1, P.TEXT, generator=torch.Generator().manual_seed(1))]
    call = {**SIZE, "ip_adapter_image_embeds": embeddings}
    stock = P.latents(pipe, num_inference_steps=4, **call)
    assert not torch.equal(stock, without)
    with accelerated(pipe, Knobs(4)):
        assert torch.equal(P.latents(pipe, **call), stock)
    with accelerated(pipe, Knobs(4, guidance_fraction=0.5, cross_attention_cache="off")):
        seen = []
        layer = pipe.unet.encoder_hid_proj
        handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
        P.latents(pipe, **call)
        handle.remove()
        assert [given.shape[0] for given in seen] == [6, 6, 3, 3]
        assert torch.equal(seen[2], seen[0][3:])
    with accelerated(pipe, FULL):
        assert torch.isfinite(P.latents(pipe, **call)).all()
        with pytest.raises(UnsupportedError, match="IP-Adapter embeddings for 18"):
            P.latents(pipe, **{**call, "ip_adapter_image_embeds": [embeddings[0].repeat(3, 1, 1)]})


@pytest.mark.parametrize("build", [P.sd, P.sdxl])
def test_image_to_image_plans_the_steps_that_run(build):
    pipe = P.img2img(build("ddim"))
    call = {"image": P.condition_image(3)}
    stock = P.latents(pipe, num_inference_steps=8, strength=0.5, **call)
    with accelerated(pipe, Knobs(8)):
        assert torch.equal(P.latents(pipe, strength=0.5, **call), stock)
    with accelerated(pipe, NO_LOW):
        assert not torch.equal(P.latents(pipe, strength=0.5, **call), stock)
        steps = summary(pipe).steps
        assert [step.batch for step in steps] == [6, 6, 6, 3]  # three quarters of the four steps that run
        assert [step.layers_skipped > 0 for step in steps] == [False, True, False, True]
        P.latents(pipe, strength=1.0, **call)
        assert len(summary(pipe).steps) == 8
        P.latents(pipe, strength=0.25, **call)
        assert len(summary(pipe).steps) == 2
    with pytest.raises(UnsupportedError, match="image to image starts from a noised image"):
        enable(pipe, FULL)


def test_part_of_a_schedule_is_refused():
    pipe = P.sdxl()
    enable(pipe, Knobs(6))
    with pytest.raises(UsageError, match=r"denoising_end=0\.5"):
        P.latents(pipe, denoising_end=0.5)


def test_tiled_decoding_and_other_outputs():
    pipe = P.sd("ddim")
    pipe.vae.enable_tiling()
    pipe.vae.enable_slicing()
    pipe.enable_attention_slicing()
    stock = P.latents(pipe, num_inference_steps=6, **SIZE)
    enable(pipe, FULL)
    images = pipe(P.PROMPTS, generator=P.generators(3), output_type="np", **SIZE).images
    assert images.shape == (3, 128, 128, 3)
    assert len(pipe(P.PROMPTS, return_dict=False, **SIZE)[0]) == 3
    disable(pipe)
    assert torch.equal(P.latents(pipe, num_inference_steps=6, **SIZE), stock)


def test_one_generator_embeddings_and_several_images_per_prompt():
    pipe = P.sd("dpm")
    text, negative = pipe.encode_prompt(P.PROMPTS, "cpu", 1, True)
    enable(pipe, FULL)
    by_prompt = P.latents(pipe, **SIZE)
    by_embedding = pipe(
        prompt_embeds=text, negative_prompt_embeds=negative, generator=P.generators(3), output_type="latent", **SIZE
    ).images
    assert torch.equal(by_prompt, by_embedding)
    call = {"num_images_per_prompt": 2, "generator": torch.Generator().manual_seed(1), "output_type": "latent"}
    first = pipe("a red circle", **call, **SIZE).images
    call["generator"] = torch.Generator().manual_seed(1)
    assert torch.equal(pipe("a red circle", **call, **SIZE).images, first)
    assert first.shape == (2, 4, 16, 16)
    noise = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    assert torch.equal(P.latents(pipe, latents=noise, **SIZE), P.latents(pipe, latents=noise, **SIZE))


@pytest.mark.parametrize("offload_first", [True, False])
@pytest.mark.parametrize("path", ["", "mid_block", "down_blocks.0.attentions.0.transformer_blocks.0.attn2"])
def test_offloading_hooks(path, offload_first):
    # What enable_model_cpu_offload puts on the network, and enable_sequential_cpu_offload on modules inside it.
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module

    pipe = P.sd("ddim")
    with accelerated(pipe, FULL):
        reference = P.latents(pipe, **SIZE)
    stock = P.latents(pipe, num_inference_steps=6, **SIZE)
    before = P.fingerprint(pipe)
    module, hook = pipe.unet.get_submodule(path), AlignDevicesHook(execution_device="cpu", io_same_device=True)
    used = []
    hook.pre_forward = lambda module, *args, **kwargs: (used.append(1), (args, kwargs))[1]
    if offload_first:
        add_hook_to_module(module, hook)
        enable(pipe, FULL)
    else:
        enable(pipe, FULL)
        add_hook_to_module(module, hook)
    assert torch.equal(P.latents(pipe, **SIZE), reference)
    disable(pipe)
    used.clear()
    assert torch.equal(P.latents(pipe, num_inference_steps=6, **SIZE), stock)
    assert len(used) == 6
    remove_hook_from_module(module)
    P.without_forward_attributes(pipe)  # accelerate leaves one
    assert P.fingerprint(pipe) == before


def test_free_u_at_the_boundary_is_refused():
    pipe = P.sd("ddim")
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    stock = P.latents(pipe, num_inference_steps=6, **SIZE)
    with accelerated(pipe, FULL):  # FreeU works on the two deepest levels, which do not run on cached steps
        assert not torch.equal(P.latents(pipe, **SIZE), stock)
    enable(pipe, Knobs(6, cache_interval=2, cache_branch=7))
    with pytest.raises(UnsupportedError, match="FreeU"):
        P.latents(pipe, **SIZE)


SMALL = {
    "block_out_channels": (8, 8),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}


@pytest.mark.slow
@pytest.mark.parametrize("compile_first", [True, False])
def test_compiled_network_without_graph_breaks(compile_first):
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    pipe = P.sd("ddim", **SMALL)
    with accelerated(pipe, FULL):
        reference = P.latents(pipe, **SIZE)
    network = pipe.unet
    if not compile_first:
        enable(pipe, FULL)
    pipe.unet = torch.compile(network, backend="eager", fullgraph=True)
    enable(pipe, FULL)
    assert torch.equal(P.latents(pipe, **SIZE), reference)
    # At most one graph per kind of step: refresh and reuse at both sizes, each once more where outputs are captured or
    # returned.
    graphs = counters["stats"]["unique_graphs"]
    assert graphs <= 8
    assert torch.equal(P.latents(pipe, **SIZE), reference)
    assert counters["stats"]["unique_graphs"] == graphs
    pipe.unet = network
    disable(pipe)
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_compiled_flow_transformer_without_graph_breaks(name):
    torch._dynamo.reset()
    pipe = P.FAMILIES[name][0]()
    call, knobs = {**SIZE, **P.FAMILIES[name][1]}, P.suited(pipe, FULL)
    with accelerated(pipe, knobs):
        reference = P.latents(pipe, **call)
    network = pipe.transformer
    pipe.transformer = torch.compile(network, backend="eager", fullgraph=True)
    enable(pipe, knobs)
    assert torch.equal(P.latents(pipe, **call), reference)
    pipe.transformer = network
    disable(pipe)
    torch._dynamo.reset()
