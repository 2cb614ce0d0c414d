import numpy as np
import pytest
from numpy.typing import NDArray

from qanchor.errors import InputError
from qanchor.experiments import LoggedDecisions, OffPolicy, best_arm_targets, evaluate

Floats = NDArray[np.float64]


def _log(random: np.random.Generator, rows: int = 4000, model: bool = True) -> tuple[LoggedDecisions, float]:
    """Three actions whose rewards depend on the user; a log that leans away from the target; the truth."""
    user = random.normal(size=rows)
    chances = 1 / (1 + np.exp(-(np.stack([0 * user - 1, user - 1, -user - 0.5], axis=1))))
    logits = np.stack([0 * user + 0.5, -user, user], axis=1)
    logging = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    target = np.where(user > 0, 1, 2)
    actions = (random.random(rows)[:, None] > logging.cumsum(axis=1)).sum(axis=1)
    row = np.arange(rows)
    rewards = (random.random(rows) < chances[row, actions]).astype(np.float64)
    expected = chances + 0.05 if model else np.zeros_like(chances)
    log = LoggedDecisions(
        rewards,
        logging[row, actions],
        best_arm_targets(actions, target),
        expected[row, actions] if model else None,
        expected[row, target] if model else None,
    )
    return log, float(chances[row, target].mean())


def _covers(result: OffPolicy, truth: float) -> list[bool]:
    intervals = [result.ips, result.snips, result.doubly_robust]
    return [one is not None and one.low < truth < one.high for one in intervals]


def test_every_estimator_covers_the_truth_as_often_as_it_says() -> None:
    random, covered = np.random.default_rng(0), []
    for _ in range(300):
        log, truth = _log(random)
        covered.append(_covers(evaluate(log), truth))

    assert np.all(np.abs(np.mean(covered, axis=0) - 0.95) < 0.05)


def test_a_model_narrows_the_interval_even_where_it_is_biased() -> None:
    log, _ = _log(np.random.default_rng(1), 20_000)
    result = evaluate(log)
    assert result.doubly_robust is not None

    assert result.doubly_robust.high - result.doubly_robust.low < result.snips.high - result.snips.low


def test_the_gain_over_what_was_done_covers_the_truth() -> None:
    random, covered = np.random.default_rng(2), 0
    # What was done is itself known only by its mean over many decisions.
    done = _log(np.random.default_rng(99), 400_000, model=False)[0].rewards.mean()
    for _ in range(200):
        log, truth = _log(random, model=False)
        result = evaluate(log)
        covered += result.gain.low < truth - done < result.gain.high

    assert abs(covered / 200 - 0.95) < 0.06


def test_the_logs_own_policy_has_its_mean_reward_and_all_rows() -> None:
    rewards, chances = np.array([0.0, 1.0, 1.0, 0.0]), np.array([0.2, 0.5, 0.7, 0.9])

    result = evaluate(LoggedDecisions(rewards, chances, chances))

    assert result.ips.value == result.snips.value == 0.5
    assert result.effective_rows == 4
    assert result.warnings == ()


def test_clipping_trades_variance_for_bias_and_warns_of_it() -> None:
    log, _ = _log(np.random.default_rng(3))
    free, cut = evaluate(log), evaluate(log, clip=2.0)

    assert cut.clipped > 0.05
    assert cut.ips.high - cut.ips.low < free.ips.high - free.ips.low
    assert cut.effective_rows > free.effective_rows
    assert any("clipping removes" in warning for warning in cut.warnings)


def test_little_overlap_is_warned_of() -> None:
    random = np.random.default_rng(4)
    chances = np.where(random.random(5000) < 0.01, 0.005, 0.995)
    targets = (chances < 0.5).astype(np.float64)

    warnings = " ".join(evaluate(LoggedDecisions(random.random(5000), chances, targets)).warnings)

    assert "little overlap" in warnings
    assert "propensity below 0.01" in warnings
    assert "not 1" in warnings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propensities": [0.5, 0.0]}, r"row 2: propensity 0 is not in \(0, 1\]"),
        ({"targets": [1.5, 0.0]}, r"row 1: target 1.5 is not in \[0, 1\]"),
        ({"targets": [0.0, 0.0]}, "takes none of the logged decisions"),
        ({"rewards": [0.0, np.nan]}, "row 2: rewards nan"),
        ({"targets": [1.0]}, "1 targets for 2 rows"),
        ({"predicted": [1.0, 1.0]}, "one of the two predictions is missing"),
    ],
)
def test_a_broken_log_is_refused_by_row(change: dict[str, list[float]], message: str) -> None:
    columns = {"rewards": [0.0, 1.0], "propensities": [0.5, 0.5], "targets": [1.0, 0.0]} | change

    with pytest.raises(InputError, match=message):
        LoggedDecisions(**{name: np.array(values) for name, values in columns.items()})
