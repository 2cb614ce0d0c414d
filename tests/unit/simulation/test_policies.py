"""Responses, what policies see of users, and policy tests whose truth is known."""

from dataclasses import dataclass, replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from numpy.typing import NDArray

from qanchor.events.history import EventArrays, slice_histories
from qanchor.shipped import template_folder
from qanchor.simulation import policies
from qanchor.simulation.cohort import Cohort, Responses
from qanchor.simulation.config import WorldPlan
from qanchor.simulation.life import Life, live
from qanchor.simulation.policy_inputs import NEVER_DAYS, PolicyInputs, Scorer, read_inputs
from qanchor.simulation.policy_test import FIXED, TREATMENT, PolicyTest, replay_log, run_test
from qanchor.simulation.responses import call_chances, late_fees, use_chances
from qanchor.simulation.state import REGIME_NAMES, REGIMES, State
from qanchor.simulation.world import Block
from qanchor.workspace import load_workspace

WIDTH = 4


@dataclass
class CountingEmbedder:
    """Vectors that say how many events each user has in the arrays and before the cut-off."""

    workspace: Any

    def embed(
        self, arrays: EventArrays, rows: NDArray[np.int64], cutoffs: NDArray[np.int64], questions: Any
    ) -> NDArray[np.float32]:
        slices = slice_histories(arrays, rows, cutoffs, self.workspace)
        counted = (slices.stop - slices.start).sum(axis=1)
        everything = sum(events.offsets[rows + 1] - events.offsets[rows] for events in arrays.modalities)
        vectors = np.zeros((len(questions), len(rows), WIDTH), dtype=np.float32)
        vectors[:, :, 0], vectors[:, :, 1] = counted, everything
        return vectors


def _head(scenario: str) -> Any:
    def matrix(table: pa.Table) -> NDArray[np.float32]:
        vectors = np.stack(table[f"emb_{scenario}"].to_numpy(zero_copy_only=False))
        counts = [np.asarray(table[name]) for name in table.column_names if name.startswith("act_")]
        return np.column_stack([vectors, *counts]).astype(np.float32)

    def score(table: pa.Table) -> NDArray[np.float64]:
        return np.asarray(matrix(table)[:, 0] / 1e6, dtype=np.float64)

    return SimpleNamespace(
        card=SimpleNamespace(scenario=scenario, width=WIDTH, spec=SimpleNamespace(matrix=matrix)),
        score=score,
    )


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    workspace = load_workspace(template_folder())
    heads = [_head(name) for name in ("money", "active", "login")]
    return Scorer(heads, CountingEmbedder(workspace), ["a", "b", "c"], workspace)


def _same(one: PolicyInputs, other: PolicyInputs) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True)
        for name in ("features", "scores", "since_late_fee", "since_salary", "balance")
    )


def test_events_at_or_after_the_moment_change_nothing_that_a_policy_sees(
    plan: WorldPlan, block: Block, scorer: Scorer
) -> None:
    moment = plan.moment(plan.test_day)
    users = sorted(block.events["user_id"].unique().to_pylist())[:40]
    mine = block.events.filter(pc.is_in(block.events["user_id"], pa.array(users)))
    before = mine.filter(pc.less(mine["event_time"], pa.scalar(moment, mine["event_time"].type)))
    at_it = before.slice(0, 30)
    column = at_it.column_names.index("event_time")
    at_it = at_it.set_column(column, "event_time", pa.array([moment] * 30, mine["event_time"].type))
    names = [f"planted-{number}" for number in range(30)]
    at_it = at_it.set_column(at_it.column_names.index("event_id"), "event_id", pa.array(names))

    inputs = read_inputs(scorer, pa.concat_tables([mine, at_it]), users, moment)

    assert before.num_rows < mine.num_rows
    assert _same(inputs, read_inputs(scorer, before, users, moment))
    # The watch itself works: a later moment sees more.
    assert not _same(inputs, read_inputs(scorer, mine, users, moment + timedelta(days=5)))


def test_signs_are_those_of_a_slow_look(plan: WorldPlan, block: Block, scorer: Scorer) -> None:
    moment = plan.moment(plan.test_day)
    users = sorted(block.events["user_id"].unique().to_pylist())[:60]
    events = block.events.filter(pc.is_in(block.events["user_id"], pa.array(users))).to_pylist()
    inputs = read_inputs(scorer, block.events, users, moment)
    for row, user in enumerate(users):
        past = [event for event in events if event["user_id"] == user and event["event_time"] < moment]
        late = [event["event_time"] for event in past if (event["merchant"] or "").endswith("Late Fee")]
        paid = [
            event["event_time"]
            for event in past
            if (event["direction"], event["category"]) == ("receives", "income")
        ]
        for days, times in ((inputs.since_late_fee, late), (inputs.since_salary, paid)):
            expected = (moment - max(times)).total_seconds() / 86_400 if times else NEVER_DAYS
            assert days[row] == pytest.approx(expected)
    assert (inputs.since_late_fee < NEVER_DAYS).any()
    assert (inputs.since_salary < 31).mean() > 0.4


def test_keeping_states_changes_nothing_that_happens(plan: WorldPlan, life: Life) -> None:
    kept = live(plan, 0, (30, plan.test_day))

    assert np.array_equal(kept.counts, life.counts)
    assert np.array_equal(kept.states[plan.test_day].drift, life.test_state.drift)
    assert set(kept.states) == {30, plan.test_day}


def _with_regime(state: State, regime: str, name: str) -> State:
    regimes = state.regimes.copy()
    regimes[:, REGIME_NAMES.index(regime)] = REGIMES[regime].index(name)
    return replace(state, regimes=regimes)


def test_need_and_pay_day_move_answers_to_a_call(life: Life) -> None:
    state = life.test_state
    calm, slipping = (_with_regime(state, "money", name) for name in ("calm", "slipping"))
    gone = _with_regime(state, "activity", "lapsed")
    paid = state.payday == 15

    assert (call_chances(slipping, (2, 10)).called > call_chances(calm, (2, 10)).called).all()
    assert call_chances(gone, (2, 10)).called.mean() < 0.6 * call_chances(state, (2, 10)).called.mean()
    before, after = call_chances(state, (2, 12)).called[paid], call_chances(state, (2, 16)).called[paid]
    assert (before > after).all()
    both = call_chances(state, (2, 10))
    assert (both.called > both.unasked).all()


def test_distress_brings_late_fees_and_more_use_of_a_line(plan: WorldPlan, life: Life) -> None:
    calm, distressed = (_with_regime(life.test_state, "money", name) for name in ("calm", "distressed"))
    fees = [
        late_fees(plan, state, plan.test_day, np.random.default_rng(0)).mean() for state in (calm, distressed)
    ]

    assert fees[1] > 3 * fees[0] > 0
    assert (use_chances(distressed, (2, 10)) > use_chances(calm, (2, 10))).all()


def _cohort(users: int, effect: float, seed: int = 0) -> tuple[Cohort, NDArray[np.int64]]:
    """Users whom one of two actions suits: which one is their `score`; the other one costs `effect`."""
    random = np.random.default_rng(seed)
    suits = random.integers(0, 2, users)
    chance = np.full((users, 2), 0.3)
    chance[np.arange(users), suits] += effect
    outcomes = (random.random((users, 2)) < chance).astype(np.float64)
    responses = Responses({"bought": outcomes}, (chance, chance))
    nothing = np.zeros(users)
    inputs = PolicyInputs(
        np.zeros((users, 1), dtype=np.float32), suits[:, None].astype(np.float64), nothing, nothing, nothing
    )
    return Cohort([f"u{n}" for n in range(users)], inputs, responses, responses, nothing > 0), suits


def _test(cohort: Cohort, suits: NDArray[np.int64], name: str) -> PolicyTest:
    fixed = np.zeros(len(cohort), dtype=np.int64)
    return PolicyTest(name, cohort.users, cohort.calls, {FIXED: fixed, TREATMENT: suits}, {})


def test_a_policy_test_knows_the_truth_and_covers_it() -> None:
    covered = np.zeros(2)
    for number in range(100):
        cohort, suits = _cohort(1500, 0.2, number)
        result = run_test(_test(cohort, suits, f"run-{number}"))
        assert result.triggered is not None and result.note == ""
        everybody, alone = result.analysis.results[0].best, result.triggered.results[0].best
        assert result.true_triggered == pytest.approx(0.2)
        assert result.true_effect == pytest.approx(0.2 * suits.mean())
        covered += (
            everybody.difference.low < result.true_effect < everybody.difference.high,
            alone.difference.low < result.true_triggered < alone.difference.high,
        )

    assert (covered >= 88).all()


def test_policies_that_agree_on_everybody_have_no_difference() -> None:
    cohort, suits = _cohort(1000, 0.2)
    result = run_test(_test(cohort, np.zeros_like(suits), "alike"))

    assert result.triggered is None
    assert "decide alike for all 1,000 users: there is no difference" in result.note
    assert result.same == 1 and result.true_effect == result.true_triggered == 0
    known = result.analysis.results[0].best.difference
    assert known.low < 0 < known.high


def test_a_single_user_who_is_decided_differently_is_too_few_to_compare() -> None:
    cohort, suits = _cohort(1000, 0.2)
    choice = np.zeros_like(suits)
    choice[7] = 1
    result = run_test(_test(cohort, choice, "one"))

    assert result.triggered is None
    assert "differently for 1 of 1,000 users: too few" in result.note


def test_arms_answer_by_their_own_policy() -> None:
    cohort, suits = _cohort(1000, 0.2)
    rows = run_test(_test(cohort, suits, "own")).rows
    treated = np.array(rows["arm"].to_pylist()) == "treatment"
    action = rows["action"].to_numpy()

    assert (action[~treated] == 0).all()
    assert (action[treated] == suits[treated]).all()
    outcomes = cohort.calls.outcomes["bought"][np.arange(1000), action]
    assert rows["bought"].to_numpy().tolist() == outcomes.tolist()


def test_the_treatment_is_valued_on_a_log_of_random_decisions() -> None:
    cohort, suits = _cohort(20_000, 0.2)
    test = _test(cohort, suits, "log")
    result = replay_log(test, TREATMENT, np.full((20_000, 2), 0.5), np.random.default_rng(1))

    assert result.snips.low < test.value(TREATMENT) < result.snips.high
    assert test.value(TREATMENT) == pytest.approx(0.5)
    assert result.warnings == ()


def test_rules_go_by_what_they_say() -> None:
    days = np.array([2.0, 20.0, 25.0, NEVER_DAYS])
    inputs = PolicyInputs(np.zeros((4, 1), dtype=np.float32), np.full((4, 3), 0.5), days, days, np.ones(4))

    assert policies.late_rule(inputs).tolist() == [True, True, True, False]
    # Salaries of 2, 20 and 25 days ago: due soon in week 3 (23 days), week 1, at once.
    assert policies.before_payday(inputs, 4)[1:3].tolist() == [1, 0]
    # A month after a salary of 2 days ago is 28.4 days away, and a week later 21.4.
    assert policies.head_features(inputs)[0, -1] == pytest.approx(365 / 12 - 2, abs=1e-3)
    assert policies.head_features(inputs, 1)[0, -1] == pytest.approx(365 / 12 - 9, abs=1e-3)
    assert np.isnan(policies.head_features(inputs)[3, -1])


def test_the_rotation_calls_an_equal_part_each_week() -> None:
    users = [f"u{n}" for n in range(8000)]
    counts = np.bincount(policies.rotation(users, 4))

    assert np.all(np.abs(counts / 8000 - 0.25) < 0.02)


def test_nobody_does_better_than_the_oracle() -> None:
    cohort, suits = _cohort(500, 0.2)
    test = PolicyTest(
        "o", cohort.users, cohort.calls, {"oracle": policies.best_weeks(cohort), FIXED: suits}, {}
    )

    assert test.value("oracle") == pytest.approx(test.value(FIXED)) == pytest.approx(0.5)
    assert policies.best_lines(cohort, 40).sum() == 460
