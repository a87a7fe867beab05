"""``shapes-flow`` as a model that postdiff calibrates: loaded, known by its fingerprint, priced, run with every knob.

Its weights are random ones here: exported after three steps of training, from networks of the real classes.
"""

from dataclasses import replace

import pytest
import torch

from postdiff_calib.accelerate import accelerated, summary
from postdiff_calib.cost import build_cost_table
from postdiff_calib.cost.budget import parse_budget
from postdiff_calib.cost.setting import Setting
from postdiff_calib.errors import ModelError
from postdiff_calib.generate import generate
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.jobs import new_record
from postdiff_calib.jobs.calibrate import run_calibrate
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.knobs import Knobs
from postdiff_calib.models import cards, load, place
from postdiff_calib.models.fingerprint import fingerprint_tokenizers
from postdiff_calib.models.shapes import flow, flow_training, train
from postdiff_calib.plan import compile_plan
from postdiff_calib.profile import load_profile
from postdiff_calib.search.space import SearchSpace

RECIPE = replace(
    flow_training.FlowRecipe(), samples=12, batch=4, warmup_samples=4, text_captions=32, evaluate_every=10**6
)
CAPTIONS = ["a red circle above a blue star on a green background", "a small ring on a white background"]
EVERYTHING = Knobs(
    6,
    low_res_fraction=0.5,
    low_res_scale=0.5,
    cache_interval=2,
    guidance_fraction=0.5,
    cross_attention_cache="off",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Exported weights of a network of four narrow blocks."""
    work, out = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("flow_weights")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("WIDTH", 32), ("HEADS", 1), ("LAYERS", 4)):
            patch.setattr(flow, name, value)
        parts = flow_training.load_parts(train.WEIGHTS)
        flow_training.train_flow(work, RECIPE, parts, torch.device("cpu"))
        flow_training.export_flow(work, RECIPE, parts, out, torch.device("cpu"))
    return out / "pipeline"


@pytest.fixture
def card(folder, monkeypatch):
    """The card, with its weights in that folder."""
    stock = cards.get_card("shapes-flow")
    assert stock.hub_id == str(train.FLOW_WEIGHTS / "pipeline")
    networks = {role: str(folder / role / "config.json") for role in stock.networks}
    changed = replace(stock, hub_id=str(folder), networks=networks)
    everything = tuple(changed if c.name == stock.name else c for c in cards.CARDS)
    monkeypatch.setattr(cards, "CARDS", everything)
    for module in (place, new_record):
        monkeypatch.setattr(module, "CARDS", everything)
    return changed


def test_without_weights_it_is_one_line(monkeypatch, tmp_path):
    gone = replace(cards.get_card("shapes-flow"), hub_id=str(tmp_path / "gone"))
    monkeypatch.setattr(place, "CARDS", (gone,))
    with pytest.raises(ModelError, match=r"model 'shapes-flow': its weights are not in .*train them: python -m"):
        load.load_pipeline("shapes-flow")


def test_it_loads_by_name_and_by_folder_and_is_known_by_its_fingerprint(card):
    loaded = load.load_pipeline("shapes-flow", device="cpu", dtype="float32")
    assert loaded.card == card
    assert loaded.notes == ()
    assert type(loaded.pipe.text_encoder_3).__name__ == "AbsentTextEncoder"
    same = load.load_pipeline(card.hub_id, device="cpu", dtype="bfloat16")
    assert same.card == card
    assert same.fingerprint == loaded.fingerprint
    assert fingerprint_tokenizers(loaded.pipe)
    loaded.pipe.transformer.proj_out.bias.data += 1
    assert load.fingerprint_pipeline(loaded.pipe) != loaded.fingerprint


def test_a_card_derived_from_the_pipeline_says_the_same(card):
    derived = load.derive_card(load.load_pipeline("shapes-flow", device="cpu").pipe, "somewhere")
    names = ("pipeline_class", "height", "width", "vae_scale_factor", "latent_channels", "latent_multiple", "scheduler")
    for name in (*names, "text_length", "text_lengths", "side_multiple", "knobs"):
        assert getattr(derived, name) == getattr(card, name), name


def test_every_knob_runs_and_is_priced(card):
    loaded = load.load_pipeline("shapes-flow", device="cpu", dtype="float32")
    settings = GenerationSettings(64, 64, card.guidance_scale, 2, latent_multiple=card.latent_multiple)
    baseline = torch.cat(list(generate(loaded.pipe, Knobs(6), CAPTIONS, [0, 1], settings)))
    stock = loaded.pipe(
        CAPTIONS,
        num_inference_steps=6,
        guidance_scale=card.guidance_scale,
        generator=[torch.Generator().manual_seed(seed) for seed in (0, 1)],
        output_type="pt",
    ).images
    assert torch.equal(baseline, stock)
    with accelerated(loaded.pipe, EVERYTHING, **settings.attachment):
        images = torch.cat(list(generate(loaded.pipe, EVERYTHING, CAPTIONS, [0, 1], settings)))
        steps = summary(loaded.pipe).steps
    assert [step.latent_size for step in steps] == [(8, 8)] * 3 + [(16, 16)] * 3
    assert [step.batch for step in steps] == [4] * 3 + [2] * 3
    assert [step.layers_skipped for step in steps] == [0, 2, 0, 0, 2, 0]
    assert not torch.equal(images, baseline)
    setting = Setting(height=64, width=64, guidance_scale=3.0, batch_size=2)
    table = build_cost_table(loaded, setting, measure=False)
    costs = [table.price(compile_plan(knobs)).macs for knobs in (EVERYTHING, Knobs(6))]
    assert 0 < costs[0] < 0.6 * costs[1]
    assert table.macs_text_encoder > 0


def test_its_plans_keep_no_cross_attention(card):
    space = SearchSpace.from_card(card, card.latent_size())
    assert len(space.grids["low_res_scale"]) == 5
    for plan in space.plans:
        dropped = plan.knobs.guidance_fraction < 1
        assert plan.knobs.cross_attention_cache == ("off" if dropped else "cond")
        assert all(step.cross_attention_live for step in plan)
    assert space.paper.cross_attention_cache == "off"


@pytest.mark.slow
def test_it_can_be_calibrated(card, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POSTDIFF_CACHE", str(tmp_path / "cache"))
    job = CalibrateJob(
        model="shapes-flow", budget=parse_budget("60%"), num_prompts=10, trials=3, device="cpu", dtype="float32"
    )
    profile = load_profile(run_calibrate(job).path)
    assert (profile.model.id, profile.model.card, profile.evidence.scorer) == ("shapes-flow", "shapes-flow", "shapes")
    assert profile.expected.cost.macs <= profile.budget.limit
    assert [m.metric for m in profile.expected.metrics] == ["clip", "scene"]
    with accelerated(load.load_pipeline("shapes-flow", device="cpu").pipe, profile) as pipe:
        assert pipe(CAPTIONS, output_type="pt").images.shape == (2, 3, 64, 64)
