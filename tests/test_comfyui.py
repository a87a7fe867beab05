"""The ComfyUI node against stubs of what it uses of ComfyUI: prompts that are run by step, and what is refused."""

import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml
from profiles import profile_data

from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.profile import Profile

SPEC = importlib.util.spec_from_file_location(
    "postdiff_comfyui", Path(__file__).parents[1] / "docs/comfyui/__init__.py"
)
node = importlib.util.module_from_spec(SPEC)
sys.modules["postdiff_comfyui"] = node
SPEC.loader.exec_module(node)

GUIDED = Knobs(13, guidance_fraction=0.75, cross_attention_cache="off")


class Model:
    """What the node uses of ComfyUI's ``ModelPatcher``."""

    def __init__(self, options=None):
        self.model_options = dict(options or {})

    def clone(self):
        return Model(self.model_options)

    def set_model_sampler_calc_cond_batch_function(self, function):
        self.model_options["sampler_calc_cond_batch_function"] = function


@pytest.fixture
def evaluated(monkeypatch):
    """Prompts of each evaluation, in turn; a prediction is the prompt's number everywhere, 0 without a prompt."""
    seen = []

    def calc_cond_batch(model, conds, x, timestep, model_options):
        seen.append([cond for cond in conds if cond is not None])
        return [torch.full_like(x, 0.0 if cond is None else cond) for cond in conds]

    samplers = types.ModuleType("comfy.samplers")
    samplers.calc_cond_batch = calc_cond_batch
    comfy = types.ModuleType("comfy")
    comfy.samplers = samplers
    monkeypatch.setitem(sys.modules, "comfy", comfy)
    monkeypatch.setitem(sys.modules, "comfy.samplers", samplers)
    return seen


def predicted(model, sigma, sigmas, cfg=7.0, positive=3.0, negative=1.0):
    """ComfyUI's sampling function: both prompts, then the guidance formula."""
    options = {**model.model_options, "transformer_options": {"sample_sigmas": torch.tensor(sigmas)}}
    x, timestep = torch.zeros(1, 4, 2, 2), torch.tensor([sigma])
    args = {"conds": [positive, negative], "input": x, "sigma": timestep, "model": "m", "model_options": options}
    cond, uncond = options["sampler_calc_cond_batch_function"](args)
    return float((uncond + (cond - uncond) * cfg).mean())


def written(tmp_path, knobs, **changes):
    path = tmp_path / "p.yaml"
    path.write_text(Profile.model_validate({**profile_data(knobs), **changes}).to_yaml())
    return str(path)


def schedule(steps):
    return [float(steps - i) for i in range(steps)] + [0.0]


def test_the_negative_prompt_is_run_on_the_first_steps_alone(tmp_path, evaluated):
    plain = Model()
    model, steps, cfg, left_out = node.PostdiffProfile().apply(plain, written(tmp_path, GUIDED), False)
    assert (steps, cfg, left_out) == (13, 4.0, "")
    assert plain.model_options == {}
    sigmas = schedule(13)
    # 3 + 6·(3 − 1) guided, the positive prediction alone after the plan's gate step
    plan = compile_plan(GUIDED)
    found = [predicted(model, sigma, sigmas) for sigma in sigmas[:-1]]
    assert found == [15.0 if step.guided else 3.0 for step in plan]
    assert [len(prompts) for prompts in evaluated] == [2 if step.guided else 1 for step in plan]
    assert plan.gate_step == 10


def test_samplers_that_evaluate_twice_a_step_are_told_the_right_step(tmp_path, evaluated):
    model = node.PostdiffProfile().apply(Model(), written(tmp_path, GUIDED), False)[0]
    sigmas = schedule(13)
    # Heun: at this level and at the next; the last guided step's second evaluation is at the gate's level
    assert [predicted(model, sigma, sigmas) for sigma in (4.0, 3.5, 3.0, 2.9997)] == [15.0, 15.0, 3.0, 3.0]
    assert [node.step_of(sigma, sigmas) for sigma in (13.0, 12.5, 12.0, 1.0, 0.5, 0.0)] == [0, 0, 1, 12, 12, 12]


def test_what_stood_there_before_is_asked(tmp_path):
    asked = []

    def other(args):
        asked.append(args["conds"])
        return [torch.full_like(args["input"], 5.0), torch.full_like(args["input"], 5.0)]

    before = Model({"sampler_calc_cond_batch_function": other})
    model = node.PostdiffProfile().apply(before, written(tmp_path, GUIDED), False)[0]
    assert predicted(model, 1.0, schedule(13)) == 5.0
    assert asked == [[3.0, None]]
    assert before.model_options["sampler_calc_cond_batch_function"] is other


def test_without_dropped_guidance_the_model_is_left_as_it_is(tmp_path):
    model, steps, *_ = node.PostdiffProfile().apply(Model(), written(tmp_path, Knobs(12)), False)
    assert (model.model_options, steps) == ({}, 12)


@pytest.mark.parametrize(
    ("knobs", "says", "remedy"),
    [
        (Knobs(20, 0.3, 0.5), "low-resolution steps (low_res_fraction=0.3)", "--fix s=0"),
        (Knobs(20, cache_interval=3), "the block cache (cache_interval=3)", "--fix k=1"),
        (Knobs(20, guidance_fraction=0.5), "the cross-attention cache (cross_attention_cache=cond)", "--fix m=1"),
    ],
)
def test_what_it_cannot_do_is_refused_unless_that_is_allowed(tmp_path, evaluated, knobs, says, remedy):
    path = written(tmp_path, knobs)
    with pytest.raises(ValueError, match="allow_partial") as refused:
        node.PostdiffProfile().apply(Model(), path, False)
    assert says in str(refused.value)
    assert f"calibrate with {remedy}, or" in str(refused.value)
    assert node.PostdiffProfile().apply(Model(), path, True)[3] == says


@pytest.mark.parametrize("text", ["", "[1]", "a: {", "knobs: 3", "schema_version: 3", "knobs: {cache_interval: x}"])
def test_what_is_no_profile_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="not one of postdiff") as refused:
        node.read_plan(path)
    assert str(path) in str(refused.value)


def test_a_missing_file_an_impossible_plan_and_an_old_comfyui_are_named(tmp_path, evaluated):
    with pytest.raises(ValueError, match="cannot be read"):
        node.read_plan(tmp_path / "none.yaml")
    data = profile_data(GUIDED)
    data["plan"]["gate_step"] = 14
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ValueError, match="14 guided steps of 13"):
        node.read_plan(tmp_path / "p.yaml")
    model = node.PostdiffProfile().apply(Model(), written(tmp_path, GUIDED), False)[0]
    args = {"conds": [3.0, 1.0], "input": None, "sigma": torch.ones(1), "model": "m", "model_options": {}}
    with pytest.raises(ValueError, match="update ComfyUI"):
        model.model_options["sampler_calc_cond_batch_function"](args)


def test_comfyui_finds_the_node():
    (name,) = node.NODE_CLASS_MAPPINGS
    cls = node.NODE_CLASS_MAPPINGS[name]
    assert name in node.NODE_DISPLAY_NAME_MAPPINGS
    assert len(cls.RETURN_TYPES) == len(cls.RETURN_NAMES)
    assert set(cls.INPUT_TYPES()["required"]) == {"model", "profile", "allow_partial"}
    assert callable(getattr(cls, cls.FUNCTION))
