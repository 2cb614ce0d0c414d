"""Experiments: false positives, CUPED against theory, peeking, and policies against a fixed rule.

    python -m benchmarks.experiments [--home HOME REPO] [--quick] [--json FILE]

--home is a finished home of the simulated world (`qanchor-cli demo` makes one) with its feature repository;
the policy tests run on it, on fresh users outside all training.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Bar, arguments, finish
from qanchor.experiments import (
    FEWEST_USERS,
    Experiment,
    adjust,
    assign,
    compare,
    moments,
    radius,
    sample_ratio,
)

_USERS = 1_000
_CORRELATIONS = (0.5, 0.7, 0.9)
_PEEKED = 5_000


def main() -> None:
    """Measure and print."""
    options = _options()
    figures = _null_experiments(500 if options.quick else 2_000)
    figures |= _cuped(2_000 if options.quick else 10_000)
    figures |= _peeking(500 if options.quick else 2_000)
    bars = [
        *(
            Bar(
                f"false positives at 5%, {name}: distance from 5%",
                abs(figures[f"false_{name}"] - 0.05),
                0.01,
                "lower",
            )
            for name in ("proportion", "skewed", "cuped")
        ),
        Bar("false positives at 5%, looking at every user", figures["false_peeking"], 0.05, "lower"),
        Bar(
            "CUPED: largest departure of the saved variance from theory", figures["cuped_worst"], 0.1, "lower"
        ),
    ]
    if options.home:
        from benchmarks.experiments_policies import measure_policies

        users = (2_000, 4_000) if options.quick else (options.pilot_users, options.users)
        policy_figures, more = measure_policies(tuple(options.home), users, options.seed, options.after)
        figures |= policy_figures
        bars += more
    finish(figures, bars, options.json)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--home", nargs=2, type=Path, metavar=("HOME", "REPO"))
    parser.add_argument("--users", type=int, default=16_000, help="users of the policy tests")
    parser.add_argument(
        "--after",
        type=int,
        default=0,
        help="users of an earlier run, left out of the tests",
    )
    parser.add_argument("--pilot-users", type=int, default=8_000, help="users that the policies learn from")
    parser.add_argument("--seed", type=int, default=2026, help="seed of the world")
    return parser.parse_args()


def _null_experiments(experiments: int) -> dict[str, float]:
    """Share of false positives among experiments without an effect, arms by the salted hash of each."""
    random, users = np.random.default_rng(1), [f"u{number:07d}" for number in range(_USERS)]
    positive = {"proportion": 0, "skewed": 0, "cuped": 0, "sample_ratio": 0}
    for number in range(experiments):
        arms = assign(Experiment(f"null-{number}", {"control": 0.5, "treatment": 0.5}), users)
        before = random.normal(size=_USERS)
        spent = np.exp(0.7 * before + 0.7 * random.normal(size=_USERS))
        outcomes = {
            "proportion": (random.random(_USERS) < 0.1).astype(np.float64),
            "skewed": spent,
            "cuped": adjust(spent, np.column_stack([before, before**2]), arms).outcomes,
        }
        for name, values in outcomes.items():
            effect = compare(moments(values[arms == 0]), moments(values[arms == 1]))
            positive[name] += effect.p_value < 0.05
        positive["sample_ratio"] += not sample_ratio(np.bincount(arms).tolist(), [1, 1]).is_sound
    return {"null_experiments": float(experiments)} | {
        f"false_{name}": count / experiments for name, count in positive.items()
    }


def _cuped(experiments: int) -> dict[str, float]:
    """Variance of the difference over many experiments, with CUPED by without; theory: 1 - correlation^2."""
    figures, worst = {}, 0.0
    for correlation in _CORRELATIONS:
        random, users = np.random.default_rng(2), 300
        differences = np.empty((experiments, 2))
        for row in range(experiments):
            before = random.normal(size=users)
            outcomes = correlation * before + np.sqrt(1 - correlation**2) * random.normal(size=users)
            arms = random.integers(0, 2, users)
            pair = (outcomes, adjust(outcomes, before, arms).outcomes)
            differences[row] = [values[arms == 1].mean() - values[arms == 0].mean() for values in pair]
        raw, adjusted = differences.var(axis=0)
        figures[f"cuped_saved_{correlation}"] = saved = float(1 - adjusted / raw)
        worst = max(worst, abs(saved / correlation**2 - 1))
    return figures | {"cuped_worst": worst}


def _peeking(experiments: int) -> dict[str, float]:
    """Share of experiments without an effect with any false positive, tested after every pair of users."""
    random, crossed = np.random.default_rng(3), np.zeros(2)
    counts = np.arange(1, _PEEKED + 1, dtype=np.float64)
    for _ in range(experiments):
        arms = random.exponential(1.0, (2, _PEEKED))
        means, error = _running(arms, counts)
        difference = np.abs(means[1] - means[0])[FEWEST_USERS - 1 :]
        late, seen = error[FEWEST_USERS - 1 :], counts[FEWEST_USERS - 1 :]
        crossed += (
            (difference > radius(late, late * seen / _PEEKED)).any(),
            (difference > 1.959964 * np.sqrt(late)).any(),
        )
    always, fixed = crossed / experiments
    return {"false_peeking": float(always), "false_peeking_fixed_interval": float(fixed)}


def _running(
    arms: NDArray[np.float64], counts: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means of both arms and the squared standard error of their difference, after each pair of users."""
    means = arms.cumsum(axis=1) / counts
    squares = (arms**2).cumsum(axis=1) / counts
    unbiased = (squares - means**2) * counts / np.maximum(counts - 1, 1)
    return means, unbiased.sum(axis=0) / counts


if __name__ == "__main__":
    main()
