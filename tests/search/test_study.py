import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import optuna
import pytest
from synthetic_surface import SMALL, Surface, limit, price

from postdiff_calib.errors import BudgetError, OutputError, PostdiffError, StudyError
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.search import select
from postdiff_calib.search.confirm import confirm
from postdiff_calib.search.strategy import SearchSettings
from postdiff_calib.search.study import Problem, run_search

N = 60
FINGERPRINT = {"model": {"name": "made up", "revision": "a"}, "prompts": "1234"}
SETTINGS = SearchSettings(n_trials=12, finalists=3)


def problem(surface=None, share=0.5, **more):
    return Problem(SMALL, price, limit(share, SMALL), surface or Surface(N, space=SMALL), N, **more)


def search(folder, surface=None, settings=SETTINGS, share=0.5, fingerprint=FINGERPRINT, ladder=(), **more):
    return run_search(problem(surface, share, ladder=ladder), settings, folder, fingerprint, **more)


def trials(folder):
    study = optuna.load_study(study_name="postdiff", storage=f"sqlite:///{folder / 'study.db'}")
    return study.get_trials(deepcopy=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    surface, seen = Surface(N, space=SMALL), []
    return folder, surface, search(folder, surface, progress=seen.append), seen


def test_no_picture_is_made_over_the_budget(finished):
    _, surface, result, _ = finished
    allowed = limit(0.5, SMALL)
    for knobs, _ in surface.calls:
        assert allowed.allows(price(compile_plan(knobs))) or knobs == SMALL.baseline
    assert surface.images == result.images_made


def test_baseline_fewer_arm_paper_and_corners_come_first(finished):
    folder, *_ = finished
    first = [
        (t.user_attrs["role"], t.user_attrs["arm"], Knobs.from_dict(t.user_attrs["knobs"])) for t in trials(folder)
    ]
    assert first[0] == ("baseline", "joint", Knobs(12))
    assert first[1] == ("explore", "fewer", Knobs(6))
    assert first[2] == ("explore", "joint", SMALL.paper)
    assert len(first) == 12


def test_corners_are_the_mildest_single_knobs_that_fit(tmp_path):
    few = SearchSettings(n_trials=6)
    search(tmp_path, share=0.72, settings=few)
    corners = [Knobs.from_dict(t.user_attrs["knobs"]) for t in trials(tmp_path) if t.user_attrs["arm"] == "cheaper"]
    assert corners == [Knobs(12, 0.5, 0.5), Knobs(12, cache_interval=2), Knobs(12, guidance_fraction=0.45)]


def test_every_arm_has_a_complete_plan_and_the_winner_is_good(finished):
    _, surface, result, _ = finished
    allows = limit(0.5, SMALL).allows
    plans = list(result.plans.values())
    for arm in select.ARMS:
        assert select.best(plans, result.baseline, allows=allows, arm=arm), arm
    winner = select.best(plans, result.baseline, allows=allows)[0]
    feasible = [p for p in SMALL.plans if allows(price(p))]
    means = np.array([surface.row(p.knobs).mean() for p in feasible])
    regret = means.max() - winner.scores.mean()
    assert regret < 2 * select.compare(winner.scores, result.baseline.scores).standard_error
    assert result.baseline.complete
    assert result.images_made < 0.25 * N * len(feasible)


def test_progress_counts_up_to_its_bound(finished):
    _, _, result, seen = finished
    made, at_most = [p.images_made for p in seen], [p.images_at_most for p in seen]
    assert made == sorted(made)
    assert made[-1] == result.images_made <= at_most[-1]
    assert at_most == sorted(at_most, reverse=True)
    assert at_most[0] == N * (1 + 3) + (12 - 3) * 10
    assert seen[-1].trials_total == 12
    assert {"baseline", "explore", "final"} <= {p.stage for p in seen}
    assert seen[-1].best is not None


@pytest.mark.parametrize("sampler", ["postdiff", "random"])
def test_the_bound_covers_the_ladder_and_a_resumed_search_counts_what_is_left(tmp_path, sampler):
    rungs = (limit(0.35, SMALL), limit(0.8, SMALL))
    settings = SearchSettings(n_trials=8, finalists=2, ladder_prompts=30, sampler=sampler)
    seen = []

    class Stopping(Surface):
        def scores(self, knobs, indices):
            if len(self.calls) == 12:
                raise KeyboardInterrupt
            return super().scores(knobs, indices)

    def run(surface):
        seen.clear()
        return search(tmp_path, surface, settings, ladder=rungs, progress=seen.append)

    stopped = run(Stopping(N, space=SMALL))
    assert stopped.interrupted
    first = seen[0].images_at_most
    rest = run(Surface(N, space=SMALL))
    assert seen[0].images_made == 10
    assert rest.images_made == seen[-1].images_made <= seen[0].images_at_most <= first - stopped.images_made + 10
    assert all(p.images_made <= p.images_at_most for p in seen)
    # the races and the arms whose plans coincide leave room; what is left at the end is nothing
    assert seen[-1].images_at_most - seen[-1].images_made <= N


def test_ctrl_c_while_optuna_takes_leave_of_a_trial_is_no_fault(tmp_path, monkeypatch):
    from optuna.study import _optimize

    tell, calls = _optimize._tell_with_warning, []

    def interrupted(**options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return tell(**options)

    monkeypatch.setattr(_optimize, "_tell_with_warning", interrupted)
    few = SearchSettings(n_trials=6, finalists=2)
    stopped = search(tmp_path, settings=few)
    assert stopped.interrupted
    assert stopped.trials == 2
    rest = search(tmp_path, settings=few)
    assert not rest.interrupted
    assert rest.trials == 6


def test_the_same_call_again_makes_no_picture(finished):
    folder, surface, result, _ = finished
    before = surface.images
    again = search(folder, surface)
    assert surface.images == before
    assert again.images_made == 0
    assert again.plans.keys() == result.plans.keys()


def test_another_budget_reuses_the_study(finished):
    folder, surface, result, _ = finished
    before = surface.images
    other = search(folder, surface, share=0.35)
    assert other.plans.keys() > result.plans.keys()
    assert select.best(other.plans.values(), other.baseline, allows=limit(0.35, SMALL).allows)
    assert not any(knobs == SMALL.baseline for knobs, _ in surface.calls[len(surface.calls) - 5 :])
    assert surface.images - before < result.images_made


@pytest.mark.parametrize("stop_after", [3, 9, 14])
def test_interrupted_search_resumes_inside_the_trial_to_the_same_end(tmp_path, stop_after):
    class Interrupted(Surface):
        def scores(self, knobs, indices):
            if len(self.calls) == stop_after:
                raise KeyboardInterrupt
            return super().scores(knobs, indices)

    straight = search(tmp_path / "straight", Surface(N, space=SMALL))
    broken = search(tmp_path / "broken", Interrupted(N, space=SMALL))
    assert broken.interrupted
    assert broken.images_made == 10 * stop_after
    rest = search(tmp_path / "broken", Surface(N, space=SMALL))
    assert not rest.interrupted
    assert broken.images_made + rest.images_made == straight.images_made
    assert {c: p.n for c, p in rest.plans.items()} == {c: p.n for c, p in straight.plans.items()}
    states = [t.state.name for t in trials(tmp_path / "broken")]
    assert states.count("COMPLETE") == 12
    assert "RUNNING" not in states


def test_sigkill_loses_at_most_the_block_in_hand(tmp_path):
    script = f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_study import N, SMALL, Surface, search
        from pathlib import Path

        class Killed(Surface):
            def scores(self, knobs, indices):
                if len(self.calls) == 10:
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().scores(knobs, indices)

        search(Path({str(tmp_path)!r}), Killed(N, space=SMALL))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=os.environ, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    surface = Surface(N, space=SMALL)
    resumed = search(tmp_path, surface)
    straight = search(tmp_path / "straight", Surface(N, space=SMALL))
    assert surface.images == straight.images_made - 100
    assert {c: p.n for c, p in resumed.plans.items()} == {c: p.n for c, p in straight.plans.items()}


def test_other_settings_are_refused_by_name_unless_fresh(tmp_path):
    few = SearchSettings(n_trials=6)
    search(tmp_path, settings=few)
    other = {"model": {"name": "made up", "revision": "b"}, "prompts": "1234"}
    with pytest.raises(StudyError, match=r"model.revision was 'a', now 'b'; .*--fresh"):
        search(tmp_path, settings=few, fingerprint=other)
    with pytest.raises(StudyError, match="scorer was None, now 'x'"):
        search(tmp_path, settings=few, fingerprint={**FINGERPRINT, "scorer": "x"})
    surface = Surface(N, space=SMALL)
    assert search(tmp_path, surface, settings=few, fingerprint=other, fresh=True).images_made == surface.images > N


def test_a_plan_with_broken_pictures_fails_by_name_and_is_not_tried_again(tmp_path):
    class Sick(Surface):
        def scores(self, knobs, indices):
            if knobs.cache_interval == 2:
                raise PostdiffError("10 of 10 pictures", "hold NaN or infinity", "use float32")
            return super().scores(knobs, indices)

    result = search(tmp_path, Sick(N, space=SMALL))
    assert result.failed
    assert all("k=2" in knobs and "NaN" in reason for knobs, reason in result.failed)
    assert len(set(result.failed)) == len(result.failed)
    assert select.best(result.plans.values(), result.baseline, allows=limit(0.5, SMALL).allows)


def test_a_broken_baseline_or_disk_ends_the_search(tmp_path):
    class Dead(Surface):
        def scores(self, knobs, indices):
            raise PostdiffError("10 of 10 pictures", "are constant", "use float32")

    with pytest.raises(PostdiffError, match="constant"):
        search(tmp_path / "dead", Dead(N, space=SMALL))

    class Full:
        def __init__(self):
            self.blocks = 0

        def read(self):
            return iter(())

        def append(self, block):
            self.blocks += 1
            if self.blocks > 8:
                raise OutputError("score file", "it cannot be written (no space)", "make room")

    with pytest.raises(OutputError, match="no space"):
        search(tmp_path / "full", store=Full())


def test_unusable_folders_and_budgets_are_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be made"):
        search(tmp_path / "file" / "study")
    (tmp_path / "study.db").write_text("this is not a database, but long enough to be taken for one " * 20)
    with pytest.raises(StudyError, match="cannot be used"):
        search(tmp_path)
    with pytest.raises(BudgetError, match="cheapest reachable"):
        search(tmp_path / "new", share=0.001)


def test_ladder_scores_each_arm_at_other_budgets(tmp_path):
    ladder = (limit(0.35, SMALL), limit(0.8, SMALL))
    settings = SearchSettings(n_trials=10, ladder_prompts=30)
    result = search(tmp_path, settings=settings, ladder=ladder)
    # without a search it is known which plan of fewer steps is tried at a budget: the most steps that fit
    tried = {Knobs.from_dict(t.user_attrs["knobs"]) for t in trials(tmp_path)}
    fewer = [c.knobs for c in SMALL.candidates(price) if c.fewer]
    for step in ladder:
        fitting = [knobs for knobs in fewer if step.allows(price(compile_plan(knobs)))]
        assert max(fitting, key=lambda knobs: knobs.num_inference_steps) in tried
    for step in ladder:
        found = select.rung(list(result.plans.values()), result.baseline, lambda c: c.macs, step.value, min_prompts=30)
        assert found.fewer is not None
        assert found.cheaper is not None
        assert found.difference.n >= 30
    assert result.images_made <= 30 * 6 + 10 * N


@pytest.mark.parametrize("name", ["tpe", "random", "nsga2"])
def test_optunas_samplers_run_within_the_budget(tmp_path, name):
    surface = Surface(N, space=SMALL)
    settings = SearchSettings(n_trials=10, sampler=name)
    result = search(tmp_path, surface, settings=settings)
    assert all(limit(0.5, SMALL).allows(p.cost) or p.knobs == SMALL.baseline for p in result.plans.values())
    assert sum(p.complete for p in result.plans.values()) >= 4
    with pytest.raises(StudyError, match="postdiff, tpe, gp, random, nsga2"):
        search(tmp_path / "x", settings=SearchSettings(sampler="cma"))


def test_confirmation_scores_finalists_on_held_out_prompts_and_resumes(finished, tmp_path):
    _, _, result, _ = finished
    held_out = Surface(30, seed=9, space=SMALL)
    best = select.best(result.plans.values(), result.baseline, allows=limit(0.5, SMALL).allows, count=3)
    seen = []
    baseline, plans = confirm(
        held_out, 30, best, result.baseline, tmp_path, progress=lambda done, total: seen.append((done, total))
    )
    assert [p.knobs for p in plans] == [p.knobs for p in best]
    assert all(p.complete and len(p.scores) == 30 for p in [baseline, *plans])
    assert held_out.images == 30 * (1 + len(best)) > 60
    assert seen[-1] == (held_out.images, held_out.images)
    confirm(held_out, 30, best, result.baseline, tmp_path)
    assert held_out.images == 30 * (1 + len(best)) > 60
