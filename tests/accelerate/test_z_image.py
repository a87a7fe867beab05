"""Z-Image against a sampler written out: lists of latents, texts of several lengths, the conditional half first."""

import pipelines as P
import pytest
import torch
from diffusers.pipelines.z_image.pipeline_z_image import get_default_z_image_sigmas
from flow_samplers import CASES, KNOBS, SIZE, WAYS, Noise, calculate_shift, case_name, close, reused

from postdiff_calib.accelerate import accelerated, enable, summary
from postdiff_calib.errors import UsageError
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan


class ZImage:
    """The network of a Z-Image pipeline, taken apart and run on one image and one text at a time: nothing is padded."""

    def __init__(self, pipe):
        self.network = pipe.transformer
        self.kept = {}

    def __call__(self, x, sigma, text, which, refresh):
        n, t = self.network, (1 - sigma).expand(1)
        time = n.t_embedder(t * n.t_scale)
        found = n.patchify_and_embed([x.unsqueeze(1)], [text], 2, 1)
        (image,), (words,), sizes, image_at, words_at, image_pads, words_pads = found
        image, image_turn, *_ = n._prepare_sequence(
            [n.all_x_embedder["2-1"](image)], image_at, image_pads, n.x_pad_token
        )
        words, words_turn, *_ = n._prepare_sequence([n.cap_embedder(words)], words_at, words_pads, n.cap_pad_token)
        for block in n.noise_refiner:
            image = block(image, None, image_turn, time)
        for block in n.context_refiner:
            words = block(words, None, words_turn)
        both, turn = torch.cat([image, words], dim=1), torch.cat([image_turn, words_turn], dim=1)
        for i, block in enumerate(n.layers):
            if i == self.span[0]:
                entry = both
            if i in self.span and not refresh:
                both = both + self.kept[which] if i == self.span[0] else both
                continue
            both = block(both, None, turn, time)
            if i == self.span[-1] and refresh:
                self.kept[which] = both - entry
        out = n.all_final_layer["2-1"](both, c=time)
        return -n.unpatchify([out[0]], sizes, 2, 1)[0].squeeze(1)


def z_image_sampler(pipe, knobs, noise, texts, negatives, scale=5.0, way="renoise"):
    plan, count = compile_plan(knobs), len(texts)
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    sigmas = [float(s) for s in get_default_z_image_sigmas(len(plan))]
    scheduler.set_timesteps(sigmas=sigmas, mu=calculate_shift(64, 4, 100, 0.5, 1.15))
    made = Noise(count, noise, way)
    x, sigmas = made.start(plan), made.grid(scheduler.sigmas, plan)
    network = ZImage(pipe)
    network.span = reused(plan)
    for i, step in enumerate(plan):
        rows = []
        for j in range(count):
            v = network(x[j], sigmas[i], texts[j], (j, "conditional"), step.refresh)
            if scale > 0 and step.guided:
                v = v + scale * (v - network(x[j], sigmas[i], negatives[j], (j, "unconditional"), step.refresh))
            rows.append(v)
        v = torch.stack(rows)
        x = made.step(x, v, sigmas, i, plan)
    return x


def texts_of(*lengths):
    generator = torch.Generator().manual_seed(5)
    return [[torch.randn(n, P.TEXT, generator=generator) for n in own] for own in lengths]


@pytest.mark.parametrize("scale", [0.0, 5.0])
@pytest.mark.parametrize(("knobs", "noise"), CASES, ids=case_name)
@torch.no_grad()
def test_z_image_equal_to_a_sampler_written_out(knobs, noise, scale):
    if scale == 0 and knobs.guidance_fraction < 1:
        return
    # Texts of two lengths: rows of a batch are padded, and by less once the longer half has been dropped.
    pipe, (texts, negatives) = P.z_image(), texts_of((5, 20), (40, 70))
    reference = z_image_sampler(pipe, knobs, noise, texts, negatives, scale)
    with accelerated(pipe, P.suited(pipe, knobs), noise=noise, switch="renoise"):
        ours = pipe(
            prompt_embeds=texts, negative_prompt_embeds=negatives, guidance_scale=scale, generator=P.generators(2),
            output_type="latent", **SIZE,
        ).images  # fmt: skip
        assert [step.guided for step in summary(pipe).steps] == [
            scale > 0 and row.guided for row in compile_plan(knobs)
        ]
    close(ours, reference)


@pytest.mark.parametrize(("way", "noise"), WAYS)
@torch.no_grad()
def test_every_way_to_full_size_is_that_of_a_sampler_written_out(way, noise):
    pipe, knobs, (texts, negatives) = P.z_image(), KNOBS[-2], texts_of((5, 20), (9, 3))
    reference = z_image_sampler(pipe, knobs, noise, texts, negatives, way=way)
    call = {"prompt_embeds": texts, "negative_prompt_embeds": negatives, "generator": P.generators(2)}
    with accelerated(pipe, P.suited(pipe, knobs), noise=noise, switch=way):
        close(pipe(**call, guidance_scale=5.0, output_type="latent", **SIZE).images, reference)


@pytest.mark.parametrize("name", ["qwen-image", "z-image"])
@pytest.mark.parametrize("count", [1, 3])
def test_identity_without_guidance_of_further_families(name, count):
    pipe = P.FAMILIES[name][0]()
    call = {} if name == "qwen-image" else {"guidance_scale": 0.0, "max_sequence_length": P.LENGTH}
    stock = P.latents(pipe, count, num_inference_steps=3, **call, **SIZE)
    with accelerated(pipe, Knobs(3)):
        assert torch.equal(P.latents(pipe, count, **call, **SIZE), stock)
    enable(pipe, Knobs(4, guidance_fraction=0.5, cross_attention_cache="off"))
    with pytest.raises(UsageError, match="does not guide"):
        P.latents(pipe, count, **call, **SIZE)
