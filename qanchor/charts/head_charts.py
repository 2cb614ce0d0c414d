"""Charts of a head's scores: ROC, gain, lift, KS, distribution, calibration and feature contributions."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qanchor import metrics
from qanchor.audience.lift import wilson_interval
from qanchor.charts.chart import Axis, Chart, Series, Tick, Tone, rounded, thinned

Labels = NDArray[np.int64]
Scores = NDArray[np.float64]
# In the order of drawing: the head is on top.
_SCORERS: Final[tuple[tuple[Tone, str], ...]] = (
    ("aggregates", "aggregates"),
    ("probe", "linear probe"),
    ("head", "head"),
)
_SELECTED: Final = "share of users, highest scores first"
_TICK_PROBABILITIES: Final = (0.0001, 0.001, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.999)


def roc_chart(labels: Labels, scores: Mapping[str, Scores]) -> Chart:
    """The receiver operating characteristic of the head and its baselines."""
    series = [Series("", "guide", "line", [0, 1], [0, 1])]
    for scorer, name in _SCORERS:
        if scorer in scores:
            curve = metrics.roc_curve(labels, scores[scorer])
            x, y = thinned(curve.false_positive_rate, curve.true_positive_rate)
            series.append(Series(name, scorer, "line", x, y))
    axes = Axis("false positive rate", 0, 1, True), Axis("true positive rate", 0, 1, True)
    note = "Closer to the upper left is better; the diagonal is a random ranking."
    return Chart("roc", "ROC", note, *axes, tuple(series))


def ks_chart(labels: Labels, scores: Scores) -> Chart:
    """The share of each class among the highest scores; the largest distance is the KS statistic."""
    curve, best = metrics.roc_curve(labels, scores), metrics.ks(labels, scores)
    selected = _selected(labels, curve)
    x, positives, negatives = thinned(selected, curve.true_positive_rate, curve.false_positive_rate)
    at = float(selected[np.flatnonzero(curve.thresholds == best.threshold)[0]])
    series = (
        Series("label 0", "negative", "line", x, negatives),
        Series("label 1", "positive", "line", x, positives),
    )
    return Chart(
        "ks",
        "Separation",
        f"KS {best.statistic:.3f}: the largest distance of the curves, at {at:.0%} of the users.",
        Axis(_SELECTED, 0, 1, True),
        Axis("share of the class", 0, 1, True),
        series,
        (Tick(at, f"KS {best.statistic:.3f}"),),
    )


def _selected(labels: Labels, curve: metrics.RocCurve) -> Scores:
    """Share of all users with a score from each threshold on, (thresholds,)."""
    rate = float(labels.mean())
    shares: Scores = rate * curve.true_positive_rate + (1 - rate) * curve.false_positive_rate
    return shares


def _log_odds(probabilities: Scores) -> Scores:
    clipped = np.clip(probabilities, 1e-5, 1 - 1e-5)
    result: Scores = np.log(clipped / (1 - clipped))
    return result


def score_chart(labels: Labels, scores: Scores) -> Chart:
    """The distribution of the scores in each class, on a log-odds scale that shows rare classes."""
    odds = _log_odds(scores)
    low, high = (float(edge) for edge in np.quantile(odds, (0.002, 0.998)))
    margin = 0.04 * max(high - low, 0.5)
    edges = np.linspace(low - margin, high + margin, 37)
    centres = (edges[:-1] + edges[1:]) / 2
    series, top = [], 0.0
    classes: tuple[tuple[int, Tone], ...] = ((0, "negative"), (1, "positive"))
    for label, tone in classes:
        counts = np.histogram(np.clip(odds[labels == label], edges[0], edges[-1]), edges)[0]
        share = np.convolve(np.pad(counts / counts.sum(), 2, mode="edge"), (0.1, 0.2, 0.4, 0.2, 0.1), "valid")
        top = max(top, float(share.max()))
        series.append(Series(f"label {label}", tone, "area", rounded(centres), rounded(share)))
    best = float(_log_odds(np.array([metrics.ks(labels, scores).threshold]))[0])
    rules = (Tick(best, "KS threshold"),) if centres[0] <= best <= centres[-1] else ()
    return Chart(
        "scores",
        "Score distribution",
        "Each class by itself; less overlap is better.",
        Axis("score, log-odds scale", float(centres[0]), float(centres[-1]), ticks=_log_odds_ticks(centres)),
        Axis("share of the class", 0, top * 1.15, True),
        tuple(series),
        rules,
    )


def _log_odds_ticks(centres: Scores) -> tuple[Tick, ...]:
    """Round probabilities inside the range, at least a tenth of it apart."""
    ticks: list[Tick] = []
    apart = 0.11 * float(centres[-1] - centres[0])
    for probability, at in zip(_TICK_PROBABILITIES, _log_odds(np.array(_TICK_PROBABILITIES)), strict=True):
        if centres[0] <= at <= centres[-1] and (not ticks or at - ticks[-1].at >= apart):
            ticks.append(Tick(float(at), f"{100 * probability:.4g}%"))
    return tuple(ticks)


def lift_chart(labels: Labels, scores: Mapping[str, Scores]) -> Chart:
    """The rate of positives among the highest scores, relative to a random selection."""
    # Below twenty rows a lift is mostly noise.
    first = min(max(0.01, 20 / len(labels)), 0.1)
    shares = np.concatenate((np.linspace(first, 0.1, 12), np.linspace(0.12, 1.0, 45)))
    series, top = [Series("", "guide", "line", [0, 1], [1, 1])], 1.5
    for scorer, name in _SCORERS:
        if scorer in scores:
            lifts = np.array([metrics.lift_at(labels, scores[scorer], float(share)) for share in shares])
            top = max(top, float(lifts.max()))
            series.append(Series(name, scorer, "line", rounded(shares, 4), rounded(lifts, 4)))
    axes = Axis(_SELECTED, 0, 1, True), Axis("lift", 0, top * 1.08)
    return Chart("lift", "Lift", "Positives relative to a random selection.", *axes, tuple(series))


def gain_chart(labels: Labels, scores: Mapping[str, Scores]) -> Chart:
    """The share of all positives among the highest scores."""
    series = [Series("", "guide", "line", [0, 1], [0, 1])]
    for scorer, name in _SCORERS:
        if scorer in scores:
            curve = metrics.roc_curve(labels, scores[scorer])
            x, y = thinned(_selected(labels, curve), curve.true_positive_rate)
            series.append(Series(name, scorer, "line", x, y))
    gain = metrics.gain_at(labels, scores["head"], 0.1)
    return Chart(
        "gain",
        "Gain",
        f"The top 10% of the users hold {gain:.0%} of all positives.",
        Axis(_SELECTED, 0, 1, True),
        Axis("share of all positives", 0, 1, True),
        tuple(series),
        (Tick(0.1, "top 10%"),),
    )


def calibration_chart(labels: Labels, scores: Scores) -> Chart:
    """Predicted probabilities and observed rates by decile of the users, with Wilson's 95% intervals."""
    bins = metrics.calibration_bins(labels, scores)
    counted = zip(bins.observed, bins.rows, strict=True)
    ends = [wilson_interval(round(float(rate * rows)), int(rows)) for rate, rows in counted]
    low, high = np.array([end[0] for end in ends]), np.array([end[1] for end in ends])
    top = min(1.0, 1.08 * max(float(bins.predicted.max()), float(high.max()), 0.05))
    predicted, observed = rounded(bins.predicted), rounded(bins.observed)
    series = (
        Series("", "guide", "line", [0, top], [0, top]),
        Series("", "head", "whiskers", predicted, rounded(low), rounded(high)),
        Series("", "head", "line", predicted, observed),
        Series("decile of the users, 95% interval", "head", "dots", predicted, observed),
    )
    axes = Axis("predicted probability", 0, top, True), Axis("observed rate", 0, top, True)
    note = "On the diagonal, predicted probabilities equal observed rates."
    return Chart("calibration", "Calibration", note, *axes, series)


def importance_chart(groups: Mapping[str, float]) -> Chart | None:
    """Share of each feature group in the head's scores; None where nothing contributes.

    Args:
        groups: mean absolute contribution by group, the largest first.
    """
    total = sum(groups.values())
    if total <= 0:
        return None
    shares = {name.removeprefix("activity:"): value / total for name, value in groups.items()}
    rows = [float(row) for row in range(len(shares), 0, -1)]
    texts = [f"{share:.0%}" for share in shares.values()]
    bars = Series("", "head", "bars", rounded(np.array(list(shares.values()))), rows, words=texts)
    names = tuple(Tick(row, name) for row, name in zip(rows, shares, strict=True))
    return Chart(
        "importance",
        "Feature contributions",
        "Mean absolute SHAP value of the embedding, of each modality's aggregates and of the profile.",
        Axis("share of all contributions", 0, 1.18 * max(shares.values()), True),
        Axis("", 0.4, len(shares) + 0.6, ticks=names),
        (bars,),
    )
