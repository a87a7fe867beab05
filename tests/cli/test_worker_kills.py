"""A leader and a worker on one study in PostgreSQL: of either, or of the server, any kill loses nothing."""

import postgres
import pytest
from killing_workers import LEADER, SERVER, TRIALS, WORKER, SharedStudy, unaccounted

from postdiff_calib.profile import load_profile
from postdiff_calib.study.record import Study


@pytest.mark.slow
def test_random_kills_of_both_and_of_the_server_lose_nothing(tmp_path):
    with postgres.server(tmp_path / "pg") as server:
        shared = SharedStudy(tmp_path / "shared", server)
        shared.chain(kills=20, seed=0)  # everyone ends: done, killed, or with one line about the server
        trials = shared.frozen_trials()
    assert len(shared.kills) == 20
    assert set(shared.kills) == {LEADER, WORKER, SERVER}

    # every trial is accounted for: what was asked for is done, each once, and what was cut short was taken up again
    assert unaccounted(trials) == []
    done = [t.user_attrs for t in trials if t.state.name == "COMPLETE"]
    own = [t for t in done if t["limit"] == t["search"]]
    assert sum(t["arm"] != "step_reduction" for t in own) == TRIALS
    queued = [t["plan"] for t in done if t.get("enqueued")]
    assert len(set(queued)) == len(queued)
    assert set(queued) == {t.user_attrs["plan"] for t in trials if t.user_attrs.get("enqueued")}

    # the study ends as any other: scores of all, a profile that is confirmed, nothing half written
    study = Study.load(shared.study)
    assert study.record.trials == len(done)
    for scored in study.scored():
        assert scored.baseline.n >= max(plan.n for plan in scored.plans)
    assert load_profile(shared.out).expected.confirmed
    assert shared.leftovers() == []
