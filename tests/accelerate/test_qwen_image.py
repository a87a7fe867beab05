"""Qwen-Image against a sampler written out: two calls, rescaled to the conditional norm."""

import pipelines as P
import pytest
import torch
from flow_samplers import CASES, KNOBS, SIZE, WAYS, case_name, close, two_calls

from postdiff_calib.accelerate import accelerated


class QwenImage:
    """The network of a Qwen-Image pipeline, taken apart."""

    def __init__(self, pipe):
        self.network = pipe.transformer
        self.kept = {}

    def __call__(self, x, sigma, text, mask, size, which, refresh):
        n = self.network
        shapes = [[(1, size[0] // 2, size[1] // 2)]] * len(x)
        rotary = n.pos_embed(shapes, max_txt_seq_len=text.shape[1], device=x.device)
        hidden, encoder = n.img_in(x), n.txt_in(n.txt_norm(text))
        time = n.time_text_embed(sigma.expand(len(x)), hidden)
        mask = None if mask is None else mask.bool()
        for i, block in enumerate(n.transformer_blocks):
            if i == self.span[0]:
                entry = encoder, hidden
            if i in self.span and not refresh:
                if i == self.span[0]:
                    encoder, hidden = (state + kept for state, kept in zip(entry, self.kept[which], strict=True))
                continue
            encoder, hidden = block(
                hidden_states=hidden,
                encoder_hidden_states=encoder,
                encoder_hidden_states_mask=mask,
                temb=time,
                image_rotary_emb=rotary,
            )
            if i == self.span[-1] and refresh:
                self.kept[which] = encoder - entry[0], hidden - entry[1]
        return n.proj_out(n.norm_out(hidden, time))


def norm_of_conditional(v, given):
    return v * given.norm(dim=-1, keepdim=True) / v.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize(("knobs", "noise"), CASES, ids=case_name)
@torch.no_grad()
def test_qwen_image_equal_to_a_sampler_written_out(knobs, noise, scale):
    if scale == 1 and knobs.guidance_fraction < 1:
        return
    pipe = P.qwen_image()
    c, u = pipe.encode_prompt(P.PROMPTS[:2]), pipe.encode_prompt(["blue"] * 2)
    reference = two_calls(QwenImage(pipe), knobs, noise, c, u, scale, norm_of_conditional)
    call = P.FAMILIES["qwen-image"][1] if scale > 1 else {}
    with accelerated(pipe, P.suited(pipe, knobs), noise=noise, switch="renoise"):
        close(P.latents(pipe, 2, **call, **SIZE), reference)


@pytest.mark.parametrize(("way", "noise"), WAYS)
@torch.no_grad()
def test_every_way_to_full_size_is_that_of_a_sampler_written_out(way, noise):
    pipe, knobs = P.qwen_image(), KNOBS[-2]
    c, u = pipe.encode_prompt(P.PROMPTS[:2]), pipe.encode_prompt(["blue"] * 2)
    reference = two_calls(QwenImage(pipe), knobs, noise, c, u, 4.0, norm_of_conditional, way=way)
    with accelerated(pipe, P.suited(pipe, knobs), noise=noise, switch=way):
        close(P.latents(pipe, 2, **P.FAMILIES["qwen-image"][1], **SIZE), reference)
