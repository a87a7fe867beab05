"""The breakdown by module: fvcore with a handle for attention, torch's counter and a count by hand agree."""

import pipelines
import pytest
import torch

from postdiff_calib.cost.macs import Macs, count
from postdiff_calib.cost.meter import Meter, StepKey
from postdiff_calib.cost.modules import KINDS, breakdown, count_with_fvcore
from postdiff_calib.cost.networks import build, control_inputs, denoiser_inputs
from postdiff_calib.models.fingerprint import control_configs, network_configs

L, C, TEXT = 5, 8, 6
#: One level, one layer each way, no middle block: small enough to count by hand.
SMALL = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 4,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [C],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ["CrossAttnDownBlock2D"],
    "mid_block_type": None,
    "up_block_types": ["CrossAttnUpBlock2D"],
    "cross_attention_dim": TEXT,
    "attention_head_dim": 2,
}
PIXART = {
    "_class_name": "PixArtTransformer2DModel",
    "sample_size": 8,
    "num_layers": 3,
    "num_attention_heads": 2,
    "attention_head_dim": 4,
    "in_channels": 4,
    "out_channels": 8,
    "cross_attention_dim": 8,
    "caption_channels": 10,
    "use_additional_conditions": False,
}


def by_hand(h: int, w: int) -> Macs:
    """SMALL on a latent of h×w and L text tokens, by the shapes of its layers."""
    pixels = h * w
    time = C * 4 * C + 4 * C * 4 * C
    conv_in_out = pixels * 9 * (4 * C + C * 4)
    conv, linear, attention = conv_in_out, time, 0
    # A resnet: two 3×3 convolutions, a projection of the time embedding, a 1×1 shortcut where channels change.
    for channels in (C, 2 * C, 2 * C):
        conv += pixels * 9 * (channels * C + C * C) + (pixels * channels * C if channels != C else 0)
        linear += 4 * C * C
    # A transformer: 1×1 convolutions in and out; self-attention; cross-attention; feed-forward (gated, four times).
    for _ in range(3):
        conv += 2 * pixels * C * C
        linear += 4 * pixels * C * C
        attention += 2 * pixels * pixels * C
        linear += 2 * pixels * C * C + 2 * L * TEXT * C
        attention += 2 * pixels * L * C
        linear += pixels * (C * 8 * C + 4 * C * C)
    return Macs(conv, linear, attention)


@pytest.mark.parametrize(("h", "w"), [(4, 4), (6, 4)])
def test_three_counts_agree(h: int, w: int) -> None:
    network = build(SMALL)
    torch_counts = count(lambda: network(**denoiser_inputs(SMALL, 1, h, w, L)))
    real = build(SMALL).to_empty(device="cpu")
    fvcore_counts = count_with_fvcore(real, denoiser_inputs(SMALL, 1, h, w, L, device="cpu"))
    assert torch_counts[""] == fvcore_counts[""] == by_hand(h, w)
    # fvcore also lists the containers that torch's counter, which sees calls, does not.
    assert {name: fvcore_counts[name] for name in torch_counts} == torch_counts


def test_fvcore_and_torch_agree_on_a_transformer() -> None:
    network = build(PIXART)
    torch_counts = count(lambda: network(**denoiser_inputs(PIXART, 1, 8, 8, L)))
    real = build(PIXART).to_empty(device="cpu")
    fvcore_counts = count_with_fvcore(real, denoiser_inputs(PIXART, 1, 8, 8, L, device="cpu"))
    assert fvcore_counts[""] == torch_counts[""]


@pytest.mark.parametrize("config", [SMALL, PIXART], ids=lambda config: config["_class_name"])
def test_the_breakdown_adds_up_to_the_step(config) -> None:
    meter = Meter(config, L)
    side = config["sample_size"]
    full = StepKey(side, side, True, True, True, -1)
    table, counter = breakdown(meter, full)
    assert counter == "fvcore"
    assert sum(sum(kinds.values()) for kinds in table.values()) == meter.step(full).full
    assert all(tuple(kinds) == KINDS for kinds in table.values())
    cached, counter = breakdown(meter, full._replace(guided=False, cross_attention_live=False))
    assert counter == "torch"
    assert sum(kinds["cross-attention"] for kinds in cached.values()) == 0
    assert sum(sum(k.values()) for k in cached.values()) * 2 == sum(
        sum(k.values()) - k["cross-attention"] for k in table.values()
    )


def test_blocks_are_in_the_order_in_which_they_run() -> None:
    table, _ = breakdown(Meter(SMALL, L), StepKey(4, 4, False, True, True, -1))
    assert list(table) == ["conv_in", "time_embedding", "down_blocks.0", "up_blocks.0", "conv_out"]
    assert table["conv_in"] == {"convolution": 16 * 9 * 4 * C, "linear": 0, "self-attention": 0, "cross-attention": 0}


def test_a_reuse_step_shows_what_is_left() -> None:
    config = {**SMALL, "block_out_channels": [C, C], "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}
    config["up_block_types"] = ["UpBlock2D", "CrossAttnUpBlock2D"]
    table, counter = breakdown(Meter(config, L), StepKey(8, 8, True, False, True, 0))
    assert counter == "torch"
    assert set(table) == {"conv_in", "time_embedding", "up_blocks.1", "conv_out"}


@pytest.fixture(scope="module")
def controlled():
    """A control network's configuration, and a meter of its U-Net with and without it."""
    pipe = pipelines.controlnet(pipelines.sd())
    unet, (config,) = network_configs(pipe)["unet"], control_configs(pipe)
    return config, Meter(unet, pipelines.LENGTH, [config]), Meter(unet, pipelines.LENGTH)


def test_a_control_network_costs_what_fvcore_counts(controlled):
    config, with_control, without = controlled

    class Whole(torch.nn.Module):
        """All that it hands on in one tensor, so that nothing is left out as unused."""

        def __init__(self):
            super().__init__()
            self.network = build(config).to_empty(device="cpu")

        def forward(self, return_dict, **inputs):
            down, middle = self.network(**inputs, return_dict=False)
            return (torch.cat([x.flatten() for x in (*down, middle)]),)

    inputs = {
        name: torch.zeros_like(value, device="cpu")
        for name, value in control_inputs(config, 1, 16, 8, pipelines.LENGTH).items()
    }
    counted = count_with_fvcore(Whole(), inputs)[""]
    for guided, times in ((False, 1), (True, 2)):
        key = StepKey(16, 8, guided, True, True, -1)
        assert with_control.step(key) - without.step(key) == counted * times
    cached = StepKey(16, 8, False, False, False, 1)  # it runs whole whatever the denoiser reuses
    assert with_control.step(cached) - without.step(cached) == counted


def test_a_control_network_has_a_row_of_its_own(controlled):
    _, with_control, without = controlled
    key = StepKey(16, 8, True, True, True, -1)
    blocks, _ = breakdown(with_control, key)
    row = blocks.pop("controlnet")
    assert blocks == breakdown(without, key)[0]
    assert sum(row.values()) == (with_control.step(key) - without.step(key)).full
    assert all(row[kind] > 0 for kind in KINDS)
