"""A technique and its knob come from this one file and are planned, run, priced, searched, written and shown.

The toy scales the network's output on every n-th step: nothing else in the package knows of it.
"""

import json
from dataclasses import replace

import numpy as np
import pipelines as P
import pytest
import torch
from profiles import profile_data
from report.report_study import make_study
from typer.testing import CliRunner

from postdiff_calib.accelerate import accelerated, enable, summary
from postdiff_calib.cli.main import app
from postdiff_calib.cost import CostTable, table_for_card
from postdiff_calib.cost.budget import parse_budget
from postdiff_calib.cost.latency import probes
from postdiff_calib.cost.setting import Setting
from postdiff_calib.errors import KnobError, ProfileError
from postdiff_calib.knobs import Knob, Knobs
from postdiff_calib.models.cards import get_card
from postdiff_calib.plan import compile_plan
from postdiff_calib.profile import json_schema, load_profile, parse_profile
from postdiff_calib.report.html.findings import Findings
from postdiff_calib.report.html.page import render
from postdiff_calib.scores.select import PlanScores
from postdiff_calib.search.backend.proposer import distributions, parameters, snap
from postdiff_calib.search.importance import severities
from postdiff_calib.search.space import SearchSpace, candidate, coordinate_matrix
from postdiff_calib.search.surrogate import Features
from postdiff_calib.techniques import registered
from postdiff_calib.techniques.hooks import add_hook, remove_hook
from postdiff_calib.techniques.technique import Fired, Part, State, Technique


class Scaling:
    """The hook: scales what the network returns where it is told to."""

    def __init__(self):
        self.on, self.calls = False, 0

    def forward(self, original, *args, **kwargs):
        output = original(*args, **kwargs)
        if not self.on:
            return output
        self.calls += 1
        return (output[0] * 0.5, *output[1:]) if isinstance(output, tuple) else output


class Scaled(Part):
    def __init__(self, network, name):
        self.network, self.name, self.hook = network, name, Scaling()
        add_hook(network, self.hook, name)

    def begin(self, call):
        self.on(dict(call.step.more).get("scaled", False))

    def on(self, value):
        self.hook.on = value

    def apply(self):
        self.on(True)

    def rest(self):
        self.on(False)

    def clear(self):
        self.rest()

    def detach(self):
        remove_hook(self.network, self.name)


class Toy(Technique):
    name = "output scaling"
    states = (State("scaled", False, "output", 6, ("whole", "scaled"), ("output whole", "output scaled")),)
    rows = (
        Knob(
            field="scale_interval",
            symbol="n",
            flag="--scale-interval",
            meaning="the network's output is halved on every n-th step, never at 0",
            kind=int,
            neutral=0,
            high=1000,
            remedy="take 0 to leave every output whole",
            grid=(0, 4, 2),
            severity=lambda n: 1 / n if n else 0.0,
            optional=True,
        ),
    )

    def __init__(self):
        self.attached = []

    def columns(self, knobs, columns):
        n = knobs.scale_interval
        return {"scaled": [n > 0 and (i + 1) % n == 0 for i in range(knobs.num_inference_steps)]}

    def effective(self, knobs, steps):
        return {"scale_interval": knobs.scale_interval if self.acts(steps) else 0}

    def inert(self, knobs, steps):
        return "scale_interval" if knobs.scale_interval and not self.acts(steps) else ""

    def words(self, knobs, steps, guides):
        scaled = sum(bool(step.more) for step in steps)
        return f"the output halved on {scaled} of them" if scaled else ""

    def attach(self, network, knobs, steps, name):
        part = Scaled(network, name)
        self.attached.append(part)
        return part

    def fired(self, steps, summary):
        return (Fired("output scaling", self.acts(steps), any(part.hook.calls for part in self.attached)),)

    def probes(self, mixed, probing):
        return (replace(mixed, scale_interval=2),)

    def metered(self, key):
        return Knobs(2, scale_interval=1) if ("scaled", True) in key.more else None


@pytest.fixture
def toy():
    technique = Toy()
    with registered(technique):
        yield technique


def run_cli(*arguments):
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_it_is_gone_afterwards():
    stock = compile_plan(Knobs(8)).plan_id
    with registered(Toy()):
        assert compile_plan(Knobs(8)).plan_id == stock
        assert compile_plan(Knobs(8, scale_interval=4)).plan_id != stock
    with pytest.raises((KnobError, TypeError)):
        Knobs(8, scale_interval=4)
    with pytest.raises(KnobError, match="unknown knob 'scale_interval'"):
        Knobs.from_dict({"scale_interval": 4})
    assert "scale_interval" not in Knobs(8).as_dict()
    assert "--scale-interval" not in run_cli("cost", "--help")


def test_the_knob_is_one_like_the_others(toy):
    knobs = Knobs(8, cache_interval=2, scale_interval=4)
    assert Knobs.from_dict(knobs.as_dict()) == knobs
    assert knobs.scale_interval == 4
    assert knobs.describe() == "T=8 k=2 n=4"
    assert replace(knobs, scale_interval=0) == Knobs(8, cache_interval=2)
    assert replace(knobs, cache_interval=1) == Knobs(8, scale_interval=4)
    with pytest.raises(KnobError, match=r"scale_interval=-1.*whole number from 0 to 1000"):
        Knobs(8, scale_interval=-1)


def test_it_is_planned(toy):
    plan = compile_plan(Knobs(8, scale_interval=3))
    assert [step.index for step in plan if step.more] == [2, 5]
    assert plan.acting == ("output scaling",)
    assert not plan.is_identity
    assert str(plan).count("scaled") == 2
    assert plan.plan_id == compile_plan(Knobs(8, scale_interval=3)).plan_id
    assert len({compile_plan(Knobs(8, scale_interval=n)).plan_id for n in range(10)}) == 9  # 9 of 8 steps is never


def test_it_runs_with_the_others_and_leaves_nothing_behind(toy):
    pipe = P.sd("ddim")
    before = P.fingerprint(pipe)
    stock = P.latents(pipe, num_inference_steps=6)
    images = [stock]
    for others in ({}, {"cache_interval": 2, "guidance_fraction": 0.5}):
        for n in (0, 3):
            with accelerated(pipe, Knobs(6, **others, scale_interval=n)):
                images.append(P.latents(pipe))
                assert len(summary(pipe).steps) == 6
    assert torch.equal(images[1], stock)
    assert not torch.equal(images[2], stock)
    assert not torch.equal(images[4], images[3])
    assert [part.hook.calls for part in toy.attached] == [2, 2]
    assert P.fingerprint(pipe) == before
    assert torch.equal(P.latents(pipe, num_inference_steps=6), stock)
    with pytest.raises(KnobError, match="scale_interval=9 of 6 steps"):
        enable(pipe, Knobs(6, scale_interval=9))


def test_it_is_priced(toy):
    card = get_card("shapes")
    table = table_for_card(card)
    plan = compile_plan(Knobs(4, cache_interval=2, scale_interval=2))
    keys = table.keys(plan)
    assert [key.more for key in keys] == [(), (("scaled", True),)] * 2
    assert "scaled=True" in keys[1].describe()
    # Halving is no multiply-accumulate: it costs what it did, and it was counted with the hook in place.
    assert table.price(plan) == table.price(compile_plan(Knobs(4, cache_interval=2)))
    assert sum(part.hook.calls for part in toy.attached) >= 1
    setting = Setting(64, 64, 3.6, 1, scales=(0.5,))
    measured = {key.more for plan in probes(card.knobs, table, setting) for key in table.keys(plan)}
    assert measured == {(), (("scaled", True),)}
    again = CostTable.from_dict(json.loads(json.dumps(table.as_dict())))
    assert again.macs == table.macs
    assert again.price(plan) == table.price(plan)


def small_space():
    return SearchSpace.from_card(replace(get_card("shapes"), step_range=(19, 20), low_res_scales=(0.5,)), (16, 16))


def test_it_is_searched(toy):
    table = table_for_card(get_card("shapes"))
    space = small_space()
    assert space.grids["scale_interval"] == (0, 4, 2)
    with_toy = {plan.knobs.scale_interval for plan in space.plans}
    assert with_toy == {0, 4, 2}
    assert len(space.plans) == 3 * sum(plan.knobs.scale_interval == 0 for plan in space.plans)

    few = [
        candidate(compile_plan(Knobs(20, cache_interval=k, scale_interval=n)), table.price)
        for k in (1, 2)
        for n in (0, 4, 2)
    ]
    points = coordinate_matrix(few)
    assert points.shape == (6, 6)
    assert points[:, -1].tolist() == [0, 4, 2, 0, 4, 2]
    features = Features(points, points[0])
    assert "main5" in features.groups
    assert np.abs(features(points[:1])).max() < 1e-12
    columns = features(points)[:, features.groups["main5"]]
    assert len(np.unique(columns, axis=0)) == 3
    assert [c.step_reduction for c in few] == [True] + [False] * 5

    assert "scale_interval" in distributions(space)
    assert parameters(few[2].knobs, space)["scale_interval"] == 2
    assert snap({"scale_interval": 3.6}, space)["scale_interval"] == 4
    scores = PlanScores(few[1].knobs, few[1].cost, np.zeros(1))
    assert severities(scores)[-1] == 0.25
    assert scores.arms(20) == ("cheaper_steps", "combined")


def test_it_is_written_to_a_profile_and_read_back(toy, tmp_path):
    data = profile_data(Knobs(20, 0.3, 0.5, 2, 0.75, scale_interval=4))
    assert data["knobs"]["scale_interval"] == 4
    profile = parse_profile(json.dumps(data))
    path = profile.save(tmp_path / "p.yaml")
    assert load_profile(path) == profile
    assert load_profile(path).knobs.scale_interval == 4
    comment = " ".join(line.removeprefix("# ") for line in path.read_text().splitlines())
    assert "scale_interval (n): the network's output is halved on every n-th step" in comment
    schema = json.dumps(json_schema())
    assert "The network's output is halved on every n-th step, never at 0." in schema

    damaged = {**data, "knobs": {**data["knobs"], "scale_interval": -1}}
    with pytest.raises(ProfileError, match=r"knobs\.scale_interval.*greater than or equal to 0"):
        parse_profile(json.dumps(damaged))
    # A file from before the knob was known means its neutral value.
    older = profile_data(Knobs(20, 0.3, 0.5, 2, 0.75))
    del older["knobs"]["scale_interval"]
    assert parse_profile(json.dumps(older)).knobs == Knobs(20, 0.3, 0.5, 2, 0.75)


def test_a_profile_with_it_is_refused_where_it_is_unknown(tmp_path):
    with registered(Toy()):
        text = parse_profile(json.dumps(profile_data(Knobs(20, scale_interval=4)))).to_yaml()
    with pytest.raises(ProfileError, match="scale_interval: unknown key"):
        parse_profile(text)


def test_it_is_shown_in_report_and_help(toy, tmp_path):
    knobs = Knobs(20, cache_interval=2, scale_interval=4)
    assert compile_plan(knobs).words() == "20 steps, deep blocks on 10 of them, the output halved on 5 of them"
    found = Findings(make_study(tmp_path / "study", scored=[Knobs(10), knobs]), parse_budget("60%"))
    page = render(found)
    assert "n=4" in page
    assert "output scaled" in page
    assert "the output halved on 5 of them" in page

    text = " ".join(run_cli("cost", "--help").replace("│", " ").split())
    assert "--scale-interval" in text
    assert "halved on every n-th step" in text
    facts = json.loads(run_cli("cost", "--json", "-T", "6", "--scale-interval", "3"))
    assert facts["knobs"]["scale_interval"] == 3
    assert facts["knobs"]["num_inference_steps"] == 6
