from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from qanchor import metrics
from qanchor.errors import InputError, LabelsInvalid, QAnchorError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Case = tuple[Ints, Floats]


@st.composite
def cases(draw: st.DrawFn, probability: bool = True) -> Case:
    """Labels of both classes with scores full of ties."""
    size = draw(st.integers(2, 60))
    labels = np.array(draw(st.lists(st.integers(0, 1), min_size=size, max_size=size)))
    labels[0], labels[-1] = 0, 1
    steps = draw(st.sampled_from([2, 5, 1000]))
    picks = draw(st.lists(st.integers(0, steps), min_size=size, max_size=size))
    scores = np.array(picks) / steps
    return labels.astype(np.int64), scores if probability else 100 * scores - 37


@given(cases(probability=False))
def test_roc_auc_equals_scikit_learn_with_ties(case: Case) -> None:
    assert metrics.roc_auc(*case) == pytest.approx(reference.roc_auc_score(*case), abs=1e-9)


@given(cases(probability=False))
def test_roc_auc_equals_the_pairwise_count(case: Case) -> None:
    labels, scores = case
    pairs = [
        1.0 if p > n else 0.5 if p == n else 0.0 for p in scores[labels == 1] for n in scores[labels == 0]
    ]
    assert metrics.roc_auc(labels, scores) == pytest.approx(np.mean(pairs), abs=1e-9)


@given(cases(probability=False))
def test_roc_curve_equals_scikit_learn(case: Case) -> None:
    fpr, tpr, thresholds = reference.roc_curve(*case, drop_intermediate=False)
    curve = metrics.roc_curve(*case)
    np.testing.assert_allclose(curve.false_positive_rate, fpr, atol=1e-9)
    np.testing.assert_allclose(curve.true_positive_rate, tpr, atol=1e-9)
    np.testing.assert_array_equal(curve.thresholds, thresholds)


@given(cases(probability=False))
def test_ks_and_its_threshold_equal_a_loop_over_thresholds(case: Case) -> None:
    labels, scores = case
    gaps = {
        t: float(np.mean(scores[labels == 1] >= t) - np.mean(scores[labels == 0] >= t))
        for t in [np.inf, *np.unique(scores)]
    }
    found = metrics.ks(labels, scores)
    assert found.statistic == pytest.approx(max(gaps.values()), abs=1e-9)
    assert gaps[found.threshold] == pytest.approx(found.statistic, abs=1e-9)


@given(cases())
def test_pr_auc_equals_average_precision(case: Case) -> None:
    assert metrics.pr_auc(*case) == pytest.approx(reference.average_precision_score(*case), abs=1e-9)


@given(cases())
def test_brier_and_log_loss_equal_scikit_learn(case: Case) -> None:
    assert metrics.brier(*case) == pytest.approx(reference.brier_score_loss(*case), abs=1e-9)
    assert metrics.log_loss(*case) == pytest.approx(reference.log_loss(*case), abs=1e-9)


@given(cases(), st.floats(0.01, 1.0))
def test_gain_equals_a_walk_down_the_list_that_shares_ties_out(case: Case, share: float) -> None:
    labels, scores = case
    left, caught = share * len(labels), 0.0
    for score in sorted(set(scores), reverse=True):
        group = labels[scores == score]
        caught += min(left, len(group)) * group.mean()
        left = max(0.0, left - len(group))
    gain = caught / labels.sum()
    assert metrics.gain_at(labels, scores, share) == pytest.approx(gain, abs=1e-9)
    assert metrics.lift_at(labels, scores, share) == pytest.approx(gain / share, abs=1e-9)


@given(cases(), st.integers(1, 15))
def test_calibration_error_equals_a_loop_over_bins(case: Case, bins: int) -> None:
    labels, scores = case
    total = 0.0
    for place in range(bins):
        inside = np.array([min(int(score * bins), bins - 1) == place for score in scores])
        if inside.any():
            total += inside.sum() * abs(scores[inside].mean() - labels[inside].mean())
    found = metrics.expected_calibration_error(labels, scores, bins)
    assert found == pytest.approx(total / len(labels), abs=1e-9)


@given(cases(), st.integers(1, 12))
def test_calibration_bins_hold_every_row_once_and_ascend(case: Case, bins: int) -> None:
    labels, scores = case
    found = metrics.calibration_bins(labels, scores, bins)
    assert found.rows.sum() == len(labels)
    assert float(found.rows @ found.observed) == pytest.approx(labels.sum())
    assert float(found.rows @ found.predicted) == pytest.approx(scores.sum())
    assert (np.diff(found.predicted) > 0).all()


@given(cases(), st.integers(2, 20))
def test_calibration_bins_equal_those_of_scikit_learn_ties_included(case: Case, bins: int) -> None:
    observed, predicted = calibration_curve(*case, n_bins=bins, strategy="quantile")
    found = metrics.calibration_bins(*case, bins)
    np.testing.assert_allclose(found.observed, observed, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.predicted, predicted, rtol=0, atol=1e-12)


@given(cases(), cases(), st.integers(2, 10))
def test_psi_equals_a_loop_over_quantile_bins(first: Case, second: Case, bins: int) -> None:
    reference_scores, current = first[1], second[1]
    edges = np.unique(np.quantile(reference_scores, np.linspace(0, 1, bins + 1)))[1:-1]
    bounds = [-np.inf, *edges, np.inf]
    shares = []
    for scores in (reference_scores, current):
        counts = [np.sum((scores > low) & (scores <= high)) for low, high in pairwise(bounds)]
        floored = np.maximum(np.array(counts) / len(scores), 1e-4)
        shares.append(floored / floored.sum())
    expected = sum((a - e) * np.log(a / e) for e, a in zip(*shares, strict=True))
    assert metrics.psi(reference_scores, current, bins) == pytest.approx(expected, abs=1e-9)
    assert metrics.psi(reference_scores, reference_scores, bins) == 0.0


def test_bootstrap_equals_a_stratified_loop_of_the_same_seed() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 200)
    scores = labels + random.normal(size=200)
    chosen = metrics.Bootstrap(draws=50, confidence=0.9, seed=3)
    loop = np.random.default_rng(3)
    values = []
    for _ in range(50):
        rows = np.concatenate(
            [loop.choice(np.flatnonzero(labels == k), int((labels == k).sum())) for k in (0, 1)]
        )
        values.append(reference.roc_auc_score(labels[rows], scores[rows]))
    found = metrics.bootstrap_intervals(["auc"], labels, scores, options=chosen)["auc"]
    assert found.value == pytest.approx(reference.roc_auc_score(labels, scores), abs=1e-9)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, (0.05, 0.95))), abs=1e-9)


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    truth, covered = 0.7602, 0  # normal(0, 1) against normal(1, 1): Phi(1 / sqrt 2)
    for seed in range(60):
        labels = np.repeat([0, 1], [60, 40])
        scores = labels + random.normal(size=100)
        options = metrics.Bootstrap(draws=60, confidence=0.9, seed=seed)
        found = metrics.bootstrap_intervals(["auc"], labels, scores, options=options)["auc"]
        covered += found.low <= truth <= found.high
    assert 45 <= covered <= 60


def test_paired_bootstrap_of_equal_scores_is_exactly_zero() -> None:
    labels, scores = np.array([0, 1, 0, 1, 1]), np.array([0.1, 0.4, 0.5, 0.6, 0.9])
    for found in metrics.bootstrap_intervals(list(metrics.FIGURES), labels, scores, baseline=scores).values():
        assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


@given(cases())
@settings(deadline=None, max_examples=30)
def test_every_figure_of_every_resample_equals_the_figure_of_its_rows(case: Case) -> None:
    labels, scores = case
    options = metrics.Bootstrap(draws=7, seed=5)
    found = metrics.bootstrap_intervals(list(metrics.FIGURES), labels, scores, options=options)
    single: dict[str, Callable[[Ints, Floats], float]] = {
        "auc": metrics.roc_auc,
        "ks": lambda y, s: metrics.ks(y, s).statistic,
        "pr_auc": metrics.pr_auc,
        "brier": metrics.brier,
        "log_loss": metrics.log_loss,
        "ece": metrics.expected_calibration_error,
    }
    for name, share in metrics.SHARES.items():
        single[f"gain_{name}"] = partial(metrics.gain_at, share=share)
        single[f"lift_{name}"] = partial(metrics.lift_at, share=share)
    assert set(single) == set(metrics.FIGURES)
    loop, groups = np.random.default_rng(5), [np.flatnonzero(labels == k) for k in (0, 1)]
    draws = [np.concatenate([loop.choice(group, len(group)) for group in groups]) for _ in range(7)]
    for name, figure in single.items():
        values = [figure(labels[rows], scores[rows]) for rows in draws]
        assert found[name].value == pytest.approx(figure(labels, scores), abs=1e-9)
        bounds = tuple(np.quantile(values, (0.025, 0.975)))
        assert (found[name].low, found[name].high) == pytest.approx(bounds, abs=1e-9)


def _placements(labels: Ints, scores: Floats) -> tuple[Floats, Floats]:
    """Of each positive and each negative the share of the other class on its right side, by all pairs."""
    right = [
        [1.0 if p > n else 0.5 if p == n else 0.0 for n in scores[labels == 0]] for p in scores[labels == 1]
    ]
    return np.mean(right, axis=1), np.mean(right, axis=0)


@given(cases(probability=False), st.integers(0, 9))
def test_delong_equals_the_covariance_of_placements_over_all_pairs(case: Case, seed: int) -> None:
    labels, first = case
    if min(labels.sum(), len(labels) - labels.sum()) < 2:
        with pytest.raises(InputError, match="two rows of each label"):
            metrics.compare_auc(labels, first, first)
        return
    second = np.random.default_rng(seed).permutation(first)
    found = metrics.compare_auc(labels, first, second)
    above, below = zip(*(_placements(labels, s) for s in (first, second)), strict=True)
    variance = 0.0
    for places in (above, below):
        difference = np.subtract(*places)
        variance += float(np.var(difference, ddof=1)) / len(difference)
    wanted = reference.roc_auc_score(labels, first) - reference.roc_auc_score(labels, second)
    assert found.difference.value == pytest.approx(wanted, abs=1e-9)
    assert found.standard_error**2 == pytest.approx(variance, abs=1e-9)
    if variance > 1e-12:
        assert found.p_value == pytest.approx(2 * norm.sf(abs(wanted) / np.sqrt(variance)), abs=1e-7)
        assert found.difference.low == pytest.approx(
            wanted - norm.ppf(0.975) * found.standard_error, abs=1e-9
        )


def test_delong_finds_no_difference_between_a_scorer_and_itself() -> None:
    labels, scores = np.array([0, 1, 0, 1, 1]), np.array([0.1, 0.4, 0.5, 0.6, 0.9])
    found = metrics.compare_auc(labels, scores, 3 * scores - 7)
    assert (found.difference.value, found.z, found.p_value) == (0.0, 0.0, 1.0)


def test_delong_rejects_the_truth_about_as_often_as_it_says() -> None:
    random, rejected = np.random.default_rng(4), 0
    for _ in range(400):
        labels = np.repeat([0, 1], [80, 60])
        signal = labels + random.normal(size=140)
        pair = [signal + random.normal(size=140) for _ in range(2)]
        rejected += metrics.compare_auc(labels, pair[0], pair[1]).p_value < 0.05
    assert 8 <= rejected <= 34  # 20 expected; four standard deviations below, three above


def test_the_interval_of_one_area_covers_what_the_bootstrap_covers() -> None:
    random = np.random.default_rng(2)
    labels = np.repeat([0, 1], [600, 400])
    scores = labels + random.normal(size=1000)
    exact = metrics.auc_interval(labels, scores)
    drawn = metrics.bootstrap_intervals(["auc"], labels, scores, options=metrics.Bootstrap(2000))["auc"]
    assert (exact.low, exact.high) == pytest.approx((drawn.low, drawn.high), abs=0.004)


@pytest.mark.parametrize(
    "metric",
    [
        metrics.roc_auc,
        metrics.roc_curve,
        metrics.ks,
        metrics.pr_auc,
        metrics.brier,
        metrics.log_loss,
        metrics.expected_calibration_error,
        metrics.calibration_bins,
        lambda labels, scores: metrics.lift_at(labels, scores, 0.1),
        lambda labels, scores: metrics.bootstrap_intervals(["auc"], labels, scores),
        lambda labels, scores: metrics.compare_auc(labels, scores, scores),
        lambda labels, scores: metrics.compare_segments(labels, scores, {}),
    ],
)
@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_refused_and_named(metric: Callable[..., object], label: int) -> None:
    with pytest.raises(QAnchorError, match=f"only label {label}, one class"):
        metric(np.full(4, label), np.array([0.1, 0.2, 0.3, 0.4]))


def test_scores_that_are_no_numbers_and_labels_that_are_no_classes_are_refused() -> None:
    with pytest.raises(InputError, match="NaN or infinity, first in row 2"):
        metrics.roc_auc([0, 1], [0.5, np.nan])
    with pytest.raises(LabelsInvalid, match="other than 0 and 1"):
        metrics.roc_auc([0, 2], [0.5, 0.6])
    with pytest.raises(InputError, match="one score per label"):
        metrics.roc_auc([0, 1], [0.5, 0.6, 0.7])
    with pytest.raises(InputError, match="probabilities"):
        metrics.brier([0, 1], [0.5, 1.6])
    with pytest.raises(InputError, match=r"outside \(0, 1\]"):
        metrics.lift_at([0, 1], [0.5, 0.6], 0.0)
    with pytest.raises(InputError, match="finite values"):
        metrics.psi([], [1.0])
