import os
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from sqlalchemy.exc import OperationalError, PendingRollbackError
from synthetic_surface import SMALL, Surface, limit, loss, price

from postdiff_calib.errors import BudgetError, OutputError, PostdiffError, StudyError
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.quality.health import HealthError
from postdiff_calib.scores.book import ScoreBook
from postdiff_calib.scores.store import FileStore
from postdiff_calib.search.backend.run import Problem, StudyPlace, run_search
from postdiff_calib.search.confirm import confirm
from postdiff_calib.search.settings import SearchSettings
from postdiff_calib.search.space import candidate

N = 60
FINGERPRINT = {"model": {"name": "made up", "revision": "a"}, "prompts": "1234"}
SETTINGS = SearchSettings(n_trials=12)
#: Two plans of the step-reduction arm are enqueued beside the twelve.
TRIALS = 14


def problem(surface=None, share=0.5, **more):
    return Problem(SMALL, price, limit(share, SMALL), surface or Surface(N, space=SMALL), N, **more)


def search(
    folder, surface=None, settings=SETTINGS, share=0.5, fingerprint=FINGERPRINT, further=(), progress=None, **at
):
    place = StudyPlace(folder, **at)
    return run_search(problem(surface, share, further=further), settings, place, fingerprint, progress=progress)


def trials(folder):
    study = optuna.load_study(study_name="postdiff", storage=f"sqlite:///{folder / 'study.db'}")
    return study.get_trials(deepcopy=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    surface, seen = Surface(N, space=SMALL), []
    return folder, surface, search(folder, surface, progress=seen.append), seen


def test_no_image_is_made_over_the_budget(finished):
    _, surface, result, _ = finished
    allowed = limit(0.5, SMALL)
    for knobs, _ in surface.calls:
        assert allowed.allows(price(compile_plan(knobs))) or knobs == SMALL.baseline
    assert surface.images == result.images_made


def test_baseline_step_reduction_arm_paper_and_corners_come_first(finished):
    folder, *_ = finished
    first = [
        (t.user_attrs["role"], t.user_attrs["arm"], Knobs.from_dict(t.user_attrs["knobs"])) for t in trials(folder)
    ]
    assert first[0] == ("baseline", "combined", Knobs(12))
    assert first[1:3] == [("explore", "step_reduction", Knobs(6)), ("explore", "step_reduction", Knobs(4))]
    assert first[3] == ("explore", "combined", SMALL.paper)
    assert len(first) == TRIALS


def test_the_whole_step_reduction_arm_of_all_budgets_is_enqueued(tmp_path):
    search(tmp_path, settings=SearchSettings(n_trials=4, further_trials=2), further=(limit(0.9, SMALL),))
    step_reduction = [
        Knobs.from_dict(t.user_attrs["knobs"]) for t in trials(tmp_path) if t.user_attrs["arm"] == "step_reduction"
    ]
    # the own budget's first, most steps first; then what only the further one allows
    assert step_reduction == [Knobs(6), Knobs(4), Knobs(10), Knobs(8)]
    assert all("enqueued" in t.user_attrs for t in trials(tmp_path)[1:5])


def test_corners_are_the_mildest_single_knobs_that_fit(tmp_path):
    few = SearchSettings(n_trials=6)
    search(tmp_path, share=0.72, settings=few)
    corners = [
        Knobs.from_dict(t.user_attrs["knobs"]) for t in trials(tmp_path) if t.user_attrs["arm"] == "cheaper_steps"
    ]
    assert corners == [Knobs(12, 0.5, 0.5), Knobs(12, cache_interval=2), Knobs(12, guidance_fraction=0.45)]


def test_every_arm_has_finalists_and_one_of_them_is_good(finished):
    _, _, result, _ = finished
    (budget,) = result.searched
    allows = limit(0.5, SMALL).allows
    assert budget.limit == limit(0.5, SMALL)
    assert budget.fits == {"step_reduction": True, "cheaper_steps": True, "combined": True}
    assert all(allows(f.candidate.cost) for f in budget.finalists)
    assert {f.arm for f in budget.finalists} == {"combined", "cheaper_steps", "step_reduction"}
    assert len({f.candidate.plan_id for f in budget.finalists}) == len(budget.finalists)
    least = min(loss(candidate(p, price)) for p in SMALL.plans if allows(price(p)))
    assert min(loss(f.candidate) for f in budget.finalists) < least + 0.2
    assert result.images_made < 0.02 * N * len(SMALL.plans)


def test_progress_counts_up_to_its_bound(finished):
    _, _, result, seen = finished
    made, at_most = [p.images_made for p in seen], [p.images_at_most for p in seen]
    assert made == sorted(made)
    assert made[-1] == result.images_made <= at_most[-1]
    assert at_most == sorted(at_most, reverse=True)
    # all prompts of the baseline, and ten of each trial
    assert at_most[0] == N + 10 * TRIALS
    assert seen[-1].trials_total == TRIALS
    assert {p.stage for p in seen} == {"baseline", "explore"}
    assert seen[-1].best is not None


@pytest.mark.parametrize("strategy", ["postdiff", "random"])
def test_the_bound_covers_further_budgets_and_a_resumed_search_counts_what_is_left(tmp_path, strategy):
    further = (limit(0.35, SMALL), limit(0.8, SMALL))
    settings = SearchSettings(n_trials=8, further_trials=3, strategy=strategy)
    seen = []

    class Stopping(Surface):
        def scores(self, knobs, indices):
            if len(self.calls) == 12:
                raise KeyboardInterrupt
            return super().scores(knobs, indices)

    def run(surface):
        seen.clear()
        return search(tmp_path, surface, settings, further=further, progress=seen.append)

    stopped = run(Stopping(N, space=SMALL))
    assert stopped.interrupted
    assert stopped.searched == ()
    first = seen[0].images_at_most
    rest = run(Surface(N, space=SMALL))
    assert seen[0].images_made == 10
    assert rest.images_made == seen[-1].images_made <= seen[0].images_at_most <= first - stopped.images_made + 10
    assert all(p.images_made <= p.images_at_most for p in seen)
    assert seen[-1].images_at_most - seen[-1].images_made <= N
    assert len(rest.searched) == (3 if strategy == "postdiff" else 1)
    assert [s.unfound is None for s in rest.searched] == [strategy == "random"] * len(rest.searched)


def test_ctrl_c_while_optuna_takes_leave_of_a_trial_is_no_fault(tmp_path, monkeypatch):
    from optuna.study import _optimize

    tell, calls = _optimize._tell_with_warning, []

    def interrupted(**options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return tell(**options)

    monkeypatch.setattr(_optimize, "_tell_with_warning", interrupted)
    few = SearchSettings(n_trials=6)
    stopped = search(tmp_path, settings=few)
    assert stopped.interrupted
    assert stopped.trials == 2
    rest = search(tmp_path, settings=few)
    assert not rest.interrupted
    assert rest.trials == 6 + 2


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (OperationalError("commit", None, Exception("server closed the connection")), "server closed the connection"),
        (PendingRollbackError("Can't reconnect until"), "the connection was lost"),
    ],
)
def test_what_the_database_said_is_told_although_optuna_loses_it(tmp_path, monkeypatch, fault, says):
    from optuna.exceptions import StorageInternalError
    from optuna.study import _optimize

    def lost(**_):
        raise StorageInternalError("An exception is raised during the commit.") from fault

    monkeypatch.setattr(_optimize, "_tell_with_warning", lost)
    with pytest.raises(StudyError, match=rf"its storage cannot be used \(.*{says}"):
        search(tmp_path, settings=SearchSettings(n_trials=6))


def test_the_same_call_again_makes_no_image(finished):
    folder, surface, result, _ = finished
    before = surface.images
    again = search(folder, surface)
    assert surface.images == before
    assert again.images_made == 0
    assert again.plans.keys() == result.plans.keys()


def test_another_budget_is_searched_as_fully_with_the_old_scores_known(finished, tmp_path):
    folder, _, result, _ = finished
    copy = tmp_path / "study"
    shutil.copytree(folder, copy)
    surface = Surface(N, space=SMALL)
    other = search(copy, surface, share=0.35)
    assert other.plans.keys() > result.plans.keys()
    mine = [t for t in trials(copy) if t.user_attrs["search"][2] == limit(0.35, SMALL).value]
    alone = search(tmp_path / "alone", share=0.35)
    assert len(mine) == alone.trials == 13  # of the step-reduction arm, T = 4 alone fits
    assert {t.user_attrs["plan"] for t in mine if "enqueued" in t.user_attrs} == {
        t.user_attrs["plan"] for t in trials(tmp_path / "alone") if "enqueued" in t.user_attrs
    }
    # no image was made twice: what the first search scored is there, and is not made again
    known = {c: p.n for c, p in result.plans.items()}
    for plan_id, plan in other.plans.items():
        made = [i for knobs, indices in surface.calls if compile_plan(knobs).plan_id == plan_id for i in indices]
        assert len(made) == len(set(made)) == plan.n - known.get(plan_id, 0)
    # and the first search is found as it was
    again = search(copy, Surface(N, space=SMALL))
    assert again.images_made == 0


def test_a_search_whose_queue_another_budget_found_is_still_done_in_full(tmp_path):
    class Stopping(Surface):
        def scores(self, knobs, indices):
            if len(self.calls) == 2:
                raise KeyboardInterrupt
            return super().scores(knobs, indices)

    assert search(tmp_path, Stopping(N, space=SMALL)).interrupted
    search(tmp_path, share=0.35)
    search(tmp_path)
    search(tmp_path / "alone")
    own = limit(0.5, SMALL).value
    done, alone = ([t for t in trials(f) if t.state.name == "COMPLETE"] for f in (tmp_path, tmp_path / "alone"))
    mine = [t for t in done if t.user_attrs["search"][2] == own]
    assert len(mine) == len(alone) == TRIALS
    queued, expected = ({t.user_attrs["plan"] for t in some if "enqueued" in t.user_attrs} for some in (mine, alone))
    assert queued == expected


@pytest.mark.parametrize("stop_after", [3, 9, 13])
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
    assert rest.searched == straight.searched
    states = [t.state.name for t in trials(tmp_path / "broken")]
    assert states.count("COMPLETE") == TRIALS
    assert "RUNNING" not in states


def test_sigkill_loses_at_most_the_block_in_hand(tmp_path):
    script = f"""
        import os, signal, sys
        sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[2])!r}]
        from test_run import N, SMALL, Surface, search
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


def test_a_plan_with_broken_images_fails_by_name_and_is_not_tried_again(tmp_path):
    class Sick(Surface):
        def scores(self, knobs, indices):
            if knobs.cache_interval == 2:
                raise PostdiffError("10 of 10 images", "hold NaN or infinity", "use float32")
            return super().scores(knobs, indices)

    result = search(tmp_path, Sick(N, space=SMALL))
    assert result.failed
    assert all("k=2" in knobs and "NaN" in reason for knobs, reason in result.failed)
    assert len(set(result.failed)) == len(result.failed)
    assert result.trials + len(result.failed) == TRIALS
    # a plan that failed never becomes a finalist
    names = {knobs for knobs, _ in result.failed}
    assert not names & {f.candidate.knobs.describe() for f in result.searched[0].finalists}
    assert len(result.searched[0].finalists) >= 5


class Blind(Surface):
    """The model itself makes broken images of some prompts; so does every plan."""

    def __init__(self, broken, *args, **more):
        super().__init__(*args, **more)
        self.broken = set(broken)

    def scores(self, knobs, indices):
        bad = self.broken & set(indices)
        if bad:
            raise HealthError(f"{len(bad)} of {len(indices)} images", "are constant", "use float32")
        return super().scores(knobs, indices)


def test_a_prompt_whose_baseline_image_is_broken_is_set_aside_and_no_plan_fails(tmp_path):
    result = search(tmp_path, Blind([7, 30], N, space=SMALL))
    assert result.failed == ()
    assert result.trials == TRIALS
    assert len(result.searched[0].finalists) >= 5
    assert all(np.isnan(p.scores[[7, 30]]).all() for p in result.plans.values())
    # a resumed study remembers them, and asks for no image of them again
    surface = Blind([], N, space=SMALL)
    book = ScoreBook(surface, N, SMALL.baseline, FileStore(tmp_path / "scores.jsonl"))
    assert set(book.set_aside) <= {7, 30}
    more = search(tmp_path, surface, replace(SETTINGS, n_trials=60))
    seen = {i for _, indices in surface.calls for i in indices}
    assert not seen & set(book.set_aside)
    assert more.failed == ()


def test_a_model_that_breaks_more_than_one_prompt_in_ten_is_refused_in_one_line(tmp_path):
    with pytest.raises(StudyError, match=r"of 60 prompts: they are broken, and at most one in ten may be") as caught:
        search(tmp_path, Blind(range(0, N, 2), N, space=SMALL))
    assert "\n" not in str(caught.value)
    assert "check the model and --dtype" in str(caught.value)


def test_a_broken_baseline_or_disk_ends_the_search(tmp_path):
    class Dead(Surface):
        def scores(self, knobs, indices):
            raise PostdiffError("10 of 10 images", "are constant", "use float32")

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


def test_both_arms_are_searched_at_every_budget(tmp_path):
    further = (limit(0.35, SMALL), limit(0.8, SMALL))
    settings = SearchSettings(n_trials=10, further_trials=5)
    result = search(tmp_path, settings=settings, further=further)
    assert [s.limit for s in result.searched] == [limit(0.5, SMALL), *further]
    for number, step in enumerate(further, 1):
        at = [t for t in trials(tmp_path) if t.user_attrs["limit"][2] == step.value and "enqueued" not in t.user_attrs]
        assert len(at) == 5
        assert {t.user_attrs["arm"] for t in at} == {"cheaper_steps"}
        assert all(Knobs.from_dict(t.user_attrs["knobs"]).num_inference_steps == 12 for t in at)
        assert all(step.allows(price(compile_plan(Knobs.from_dict(t.user_attrs["knobs"])))) for t in at)
        found = result.searched[number].finalists
        assert {"cheaper_steps"} <= {f.arm for f in found}
        most = max(f.candidate.knobs.num_inference_steps for f in found if f.candidate.step_reduction)
        assert most == {0.35: 4, 0.8: 8}[round(step.value / step.baseline, 2)]
        assert all(step.allows(f.candidate.cost) for f in found)


@pytest.mark.parametrize("name", ["tpe", "gp", "random", "nsga2"])
def test_optunas_searches_run_within_the_budget(tmp_path, name):
    surface = Surface(N, space=SMALL)
    settings = SearchSettings(n_trials=10, strategy=name)
    result = search(tmp_path, surface, settings=settings)
    assert all(limit(0.5, SMALL).allows(p.cost) or p.knobs == SMALL.baseline for p in result.plans.values())
    assert sum(p.complete for p in result.plans.values()) >= 4
    with pytest.raises(StudyError, match="postdiff, tpe, gp, random, nsga2"):
        search(tmp_path / "x", settings=SearchSettings(strategy="cma"))


def finalists(result):
    return [f.candidate.knobs for f in result.searched[0].finalists]


def test_confirmation_scores_finalists_on_held_out_prompts_and_resumes(finished, tmp_path):
    _, _, result, _ = finished
    held_out, chosen = Surface(30, seed=9, space=SMALL), finalists(result)
    assert confirm(held_out, 30, chosen, SMALL.baseline, tmp_path) == {}
    book = ScoreBook(held_out, 30, SMALL.baseline, FileStore(tmp_path / "held_out.jsonl"))
    assert book.plans.keys() == {compile_plan(k).plan_id for k in [SMALL.baseline, *chosen]}
    assert all(book.complete(plan) for plan in book.plans)
    assert held_out.images == 30 * (1 + len(chosen)) > 60
    confirm(held_out, 30, chosen, SMALL.baseline, tmp_path)
    assert held_out.images == 30 * (1 + len(chosen))


def test_a_finalist_that_breaks_on_held_out_prompts_is_handed_back_and_the_others_are_scored(finished, tmp_path):
    chosen = finalists(finished[2])

    class Frail(Surface):
        def scores(self, knobs, indices):
            if knobs == chosen[0] and 25 in indices:
                raise HealthError("1 of 10 images", "are constant", "use float32")
            return super().scores(knobs, indices)

    broken = confirm(Frail(30, space=SMALL), 30, chosen, SMALL.baseline, tmp_path)
    assert list(broken) == [compile_plan(chosen[0]).plan_id]
    assert "are constant" in broken[compile_plan(chosen[0]).plan_id]
    book = ScoreBook(Surface(30, space=SMALL), 30, SMALL.baseline, FileStore(tmp_path / "held_out.jsonl"))
    assert [book.count(compile_plan(k).plan_id) for k in chosen] == [20] + [30] * (len(chosen) - 1)


def test_held_out_prompts_of_which_the_baseline_is_broken_are_set_aside(finished, tmp_path):
    chosen, other = finalists(finished[2]), tmp_path / "other"
    other.mkdir()
    surface = Blind([3], 30, space=SMALL)
    assert confirm(surface, 30, chosen, SMALL.baseline, tmp_path) == {}
    book = ScoreBook(surface, 30, SMALL.baseline, FileStore(tmp_path / "held_out.jsonl"))
    assert {plan: book.count(plan) for plan in book.plans} == dict.fromkeys(book.plans, 29)
    with pytest.raises(StudyError, match="of 30 prompts: they are broken"):
        confirm(Blind(range(10), 30, space=SMALL), 30, chosen, SMALL.baseline, other)
