"""MACs: by hand, against torch and fvcore, and the paper's own figures with nothing fitted."""

import pytest
import torch

from postdiff_calib.cost.build import table_for_card
from postdiff_calib.cost.macs import Macs, count
from postdiff_calib.cost.meter import Meter, StepKey
from postdiff_calib.cost.networks import build, denoiser_inputs
from postdiff_calib.errors import KnobError, UnsupportedError
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.cards import get_card
from postdiff_calib.plan import compile_plan

TINY = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [8, 16, 16],
    "layers_per_block": 2,
    "norm_num_groups": 4,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
}
PIXART = {
    "_class_name": "PixArtTransformer2DModel",
    "sample_size": 8,
    "num_layers": 6,
    "num_attention_heads": 2,
    "attention_head_dim": 4,
    "in_channels": 4,
    "out_channels": 8,
    "cross_attention_dim": 8,
    "caption_channels": 10,
    "use_additional_conditions": False,
}
L = 7


@pytest.fixture
def full() -> StepKey:
    return StepKey(16, 16, True, True, True, -1)


def test_layers_by_hand() -> None:
    """Conv 3→5, 3×3 on 4×4: 16·5·3·9; linear 6→2 on 10 rows: 120; attention 2 heads, 3 queries, 4 keys, width 5."""
    with torch.device("meta"):
        conv, linear = torch.nn.Conv2d(3, 5, 3, padding=1), torch.nn.Linear(6, 2)
        image, rows = torch.empty(1, 3, 4, 4), torch.empty(10, 6)
        q, k, v = torch.empty(1, 2, 3, 5), torch.empty(1, 2, 4, 5), torch.empty(1, 2, 4, 5)
    assert count(lambda: conv(image))[""] == Macs(conv=2160)
    assert count(lambda: linear(rows))[""] == Macs(linear=120)
    assert count(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v))[""] == Macs(attention=2 * 60 * 2)
    assert count(lambda: None)[""] == Macs()


def test_macs_add_up() -> None:
    macs = Macs(1, 2, 4) + Macs(10, 20, 40) * 2 - Macs(0, 0, 4)
    assert (macs.paper, macs.full) == (63, 143)
    assert (macs.by("paper"), macs.by("full")) == (63, 143)


@pytest.mark.parametrize(
    ("knobs", "published"),
    [
        (Knobs(20), 30.420),
        (Knobs(8), 12.168),
        (Knobs(20, low_res_fraction=0.5, low_res_scale=0.5), 19.035),
        (Knobs(20, cache_interval=2), 17.787),
        (Knobs(20, low_res_fraction=0.5, low_res_scale=0.5, cache_interval=2), 11.129),
    ],
    ids=lambda value: value.describe() if isinstance(value, Knobs) else "",
)
def test_the_papers_figures_come_out_with_nothing_fitted(knobs: Knobs, published: float, sd15_table) -> None:
    cost = sd15_table.price(compile_plan(knobs))
    assert cost.macs_paper / 1e12 == pytest.approx(published, rel=1.5e-3)
    assert cost.macs > cost.macs_paper
    assert cost.seconds is None
    assert cost.seconds_p95 is None


@pytest.fixture(scope="module")
def sd15_table():
    return table_for_card(get_card("sd15"), height=768, width=768)


def test_one_call_of_sd15_at_both_sizes(sd15_table) -> None:
    large = sd15_table.step_macs(StepKey(96, 96, False, True, True, -1))
    small = sd15_table.step_macs(StepKey(64, 64, False, True, True, -1))
    assert (round(large.paper / 1e9), round(large.full / 1e9)) == (760, 1074)
    assert (round(small.paper / 1e9), round(small.full / 1e9)) == (339, 402)


@pytest.mark.parametrize(("name", "giga_macs"), [("bk-sdm-small", 217.7), ("bk-sdm-tiny", 205.0)])
def test_bk_sdm_as_published(name: str, giga_macs: float) -> None:
    """One U-Net call at 512×512, BK-SDM (arXiv 2305.15798), table of model sizes."""
    card = get_card(name)
    meter = Meter(card.network_config("unet"), card.text_length)
    assert meter.step(StepKey(64, 64, False, True, True, -1)).paper / 1e9 == pytest.approx(giga_macs, rel=1e-3)


def test_a_guided_step_is_two_conditional_ones(full: StepKey) -> None:
    meter = Meter(TINY, L)
    assert meter.step(full) == meter.step(full._replace(guided=False)) * 2


def test_a_reuse_step_leaves_out_what_deepcache_skips(full: StepKey) -> None:
    """Branch 1: conv_in, first down layer, last two up layers, time embedding and conv_out run; nothing else."""
    meter = Meter(TINY, L)
    modules = meter.modules(full)
    names = ["time_embedding", "conv_in", "conv_out"]
    names += [f"down_blocks.0.{part}.0" for part in ("resnets", "attentions")]
    names += [f"up_blocks.2.{part}.{i}" for part in ("resnets", "attentions") for i in (1, 2)]
    expected = Macs()
    for name in names:
        expected += modules[name]
    assert meter.step(full._replace(refresh=False, branch=1)) == expected


def test_cached_cross_attention_leaves_out_the_whole_layer(full: StepKey) -> None:
    meter = Meter(TINY, L)
    full = full._replace(guided=False)
    modules = meter.modules(full)
    layers = [macs for name, macs in modules.items() if name.endswith(".attn2")]
    assert len(layers) == 2 * 2 + 1 + 2 * 3
    saved = meter.step(full) - meter.step(full._replace(cross_attention_live=False))
    assert saved == sum(layers[1:], layers[0])
    # Queries and output: 64 pixels of 16 channels twice; keys and values: 7 tokens from width 12 to 16; two products.
    block = modules["down_blocks.1.attentions.0.transformer_blocks.0.attn2"]
    assert block == Macs(linear=2 * 64 * 16 * 16 + 2 * L * 12 * 16, attention=2 * 64 * L * 16)


def test_transformer_reuse_leaves_out_its_span() -> None:
    """6 blocks, branch 1: one at each end is live."""
    meter = Meter(PIXART, L)
    full = StepKey(8, 8, True, True, True, -1)
    modules = meter.modules(full)
    block = modules["transformer_blocks.2"]
    assert meter.step(full) - meter.step(full._replace(refresh=False, branch=1)) == block * 4
    cached = meter.step(full._replace(cross_attention_live=False))
    assert meter.step(full) - cached == modules["transformer_blocks.2.attn2"] * 6


def test_a_branch_that_the_network_does_not_have_is_refused(full: StepKey) -> None:
    with pytest.raises(UnsupportedError, match="cache_branch=11"):
        Meter(TINY, L).step(full._replace(refresh=False, branch=11))
    assert Meter(TINY, L).step(full).full > 0


@pytest.mark.parametrize("config", [TINY, PIXART], ids=lambda config: config["_class_name"])
def test_meta_and_cpu_count_the_same(config) -> None:
    """Attention is decomposed on one and fused on the other."""
    counts = []
    for device in ("meta", "cpu"):
        network = build(config)
        network = network.to_empty(device="cpu") if device == "cpu" else network
        inputs = denoiser_inputs(config, 2, 8, 8, L, device=device)
        counts.append(count(lambda network=network, inputs=inputs: network(**inputs)))
    assert counts[0] == counts[1]


def test_live_once_after_the_switch() -> None:
    """Guidance ends before the switch: cross-attention runs once more on the first full-resolution step."""
    knobs = Knobs(8, low_res_fraction=0.5, low_res_scale=0.5, guidance_fraction=0.25)
    table = table_for_card(get_card("bk-sdm-tiny"))
    kinds = table.keys(compile_plan(knobs))
    live = [key for key in kinds if key.height == 64 and key.cross_attention_live]
    assert len(live) == 1
    assert kinds.index(live[0]) == 4
    assert table.price(compile_plan(knobs)).macs == sum(table.step_macs(key).full for key in kinds)


def test_lcm_has_no_guided_half() -> None:
    table = table_for_card(get_card("lcm"))
    assert not table.guides
    keys = table.keys(compile_plan(Knobs(4, guidance_fraction=0.5)))
    assert [key.guided for key in keys] == [False] * 4
    assert [key.cross_attention_live for key in keys] == [True, True, False, False]


def test_a_scale_that_changes_nothing_is_refused() -> None:
    table = table_for_card(get_card("bk-sdm-tiny"), height=64, width=64)
    with pytest.raises(KnobError, match="not smaller"):
        table.price(compile_plan(Knobs(4, low_res_fraction=0.5, low_res_scale=0.875)))


def test_text_and_decoder_are_priced_apart() -> None:
    """CLIP-L: 12 layers of width 768 and 3072 on 77 tokens, twice (prompt and empty negative prompt)."""
    table = table_for_card(get_card("sd15"))
    linear = 77 * 12 * (4 * 768 * 768 + 2 * 768 * 3072)
    attention = 12 * 2 * 77 * 77 * 768
    assert table.macs_text_encoder == 2 * (linear + attention)
    assert table.macs_vae_decoder > 1e12
    assert table_for_card(get_card("lcm")).macs_text_encoder == linear + attention


def test_a_network_that_is_not_known_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="MysteryModel"):
        build({"_class_name": "MysteryModel"})
    with pytest.raises(UnsupportedError, match="AutoencoderKL"):
        denoiser_inputs({"_class_name": "AutoencoderKL", "in_channels": 3}, 1, 8, 8, L)
