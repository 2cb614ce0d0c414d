"""What the report plots of a head's scores."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from qanchor import metrics
from qanchor.audience.lift import wilson_interval
from qanchor.charts.chart import Axis, Chart, Series, Tone, rounded, thinned

Labels = NDArray[np.int64]
Scores = NDArray[np.float64]
SCORER_NAMES: dict[str, str] = {"head": "head", "probe": "linear probe", "aggregates": "aggregates"}


def roc_chart(labels: Labels, scores: dict[str, Scores]) -> Chart:
    """The receiver operating characteristic of the head and its baselines."""
    series = [Series("", "guide", "line", [0, 1], [0, 1])]
    for name in ("aggregates", "probe", "head"):
        if name in scores:
            curve = metrics.roc_curve(labels, scores[name])
            x, y = thinned(curve.false_positive_rate, curve.true_positive_rate)
            series.append(Series(SCORER_NAMES[name], _tone(name), "line", x, y))
    axes = Axis("false positive rate", 0, 1, True), Axis("true positive rate", 0, 1, True)
    return Chart("roc", "ROC", "Further up and left is better; the diagonal is chance.", *axes, tuple(series))


def _tone(name: str) -> Tone:
    return "head" if name == "head" else "probe" if name == "probe" else "aggregates"


def ks_chart(labels: Labels, scores: Scores) -> Chart:
    """How many of each class the best-scored users hold; the widest gap is the KS statistic."""
    curve, best = metrics.roc_curve(labels, scores), metrics.ks(labels, scores)
    rate = float(labels.mean())
    taken = rate * curve.true_positive_rate + (1 - rate) * curve.false_positive_rate
    x, caught, wrong = thinned(taken, curve.true_positive_rate, curve.false_positive_rate)
    at = float(taken[np.flatnonzero(curve.thresholds == best.threshold)[0]])
    series = (
        Series("label 0", "negative", "line", x, wrong),
        Series("label 1", "positive", "line", x, caught),
    )
    return Chart(
        "ks",
        "Separation",
        f"KS {best.statistic:.3f}: the widest gap, among the best {at:.0%} of users.",
        Axis("share of users, best scores first", 0, 1, True),
        Axis("share of the class", 0, 1, True),
        series,
        ((at, f"KS {best.statistic:.3f}"),),
    )


_CHANCES = (0.0001, 0.001, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.999)


def _log_odds(chances: Scores) -> Scores:
    clipped = np.clip(chances, 1e-5, 1 - 1e-5)
    result: Scores = np.log(clipped / (1 - clipped))
    return result


def score_chart(labels: Labels, scores: Scores) -> Chart:
    """Where the scores of both classes lie, on a log-odds scale so that rare classes can be seen."""
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
        x, y = [round(float(v), 5) for v in centres], [round(float(v), 5) for v in share]
        series.append(Series(f"label {label}", tone, "area", x, y))
    best = float(_log_odds(np.array([metrics.ks(labels, scores).threshold]))[0])
    rules = ((best, "KS threshold"),) if centres[0] <= best <= centres[-1] else ()
    return Chart(
        "scores",
        "Score distribution",
        "Each class by itself; the less they overlap, the better.",
        Axis("score, log-odds scale", float(centres[0]), float(centres[-1]), ticks=_chance_ticks(centres)),
        Axis("share of the class", 0, top * 1.15, True),
        tuple(series),
        rules,
    )


def _chance_ticks(centres: Scores) -> tuple[tuple[float, str], ...]:
    """Round chances inside the range, none nearer to the next than a tenth of it."""
    kept: list[tuple[float, str]] = []
    for chance in _CHANCES:
        place = float(_log_odds(np.array([chance]))[0])
        room = 0.11 * float(centres[-1] - centres[0])
        if centres[0] <= place <= centres[-1] and (not kept or place - kept[-1][0] >= room):
            kept.append((place, f"{100 * chance:.4g}%"))
    return tuple(kept)


def lift_chart(labels: Labels, scores: dict[str, Scores]) -> Chart:
    """How many times better than a random draw the best-scored share of users is."""
    # Below twenty rows a lift is mostly chance.
    first = min(max(0.01, 20 / len(labels)), 0.1)
    shares = np.concatenate((np.linspace(first, 0.1, 12), np.linspace(0.12, 1.0, 45)))
    series, top = [Series("", "guide", "line", [0, 1], [1, 1])], 1.5
    for name in ("aggregates", "probe", "head"):
        if name in scores:
            lifts = [metrics.lift_at(labels, scores[name], float(share)) for share in shares]
            top = max(top, *lifts)
            x, y = [round(float(s), 4) for s in shares], [round(v, 4) for v in lifts]
            series.append(Series(SCORER_NAMES[name], _tone(name), "line", x, y))
    axes = Axis("share of users taken, best first", 0, 1, True), Axis("lift", 0, top * 1.08)
    return Chart("lift", "Lift", "Times as many positives as a random draw would hold.", *axes, tuple(series))


def gain_chart(labels: Labels, scores: dict[str, Scores]) -> Chart:
    """Which part of all label-1 users the best-scored share of users holds."""
    series = [Series("", "guide", "line", [0, 1], [0, 1])]
    rate = float(labels.mean())
    for name in ("aggregates", "probe", "head"):
        if name in scores:
            curve = metrics.roc_curve(labels, scores[name])
            taken = rate * curve.true_positive_rate + (1 - rate) * curve.false_positive_rate
            x, y = thinned(taken, curve.true_positive_rate)
            series.append(Series(SCORER_NAMES[name], _tone(name), "line", x, y))
    reached = metrics.gain_at(labels, scores["head"], 0.1)
    return Chart(
        "gain",
        "Gain",
        f"The best-scored tenth of the users holds {reached:.0%} of all with label 1.",
        Axis("share of users taken, best first", 0, 1, True),
        Axis("share of label 1 reached", 0, 1, True),
        tuple(series),
        ((0.1, "a tenth"),),
    )


def calibration_chart(labels: Labels, scores: Scores) -> Chart:
    """Predicted against observed rates, in tenths of the users, with Wilson's 95% intervals."""
    bins = metrics.calibration_bins(labels, scores)
    counted = zip(bins.observed, bins.rows, strict=True)
    ends = [wilson_interval(round(float(rate * rows)), int(rows)) for rate, rows in counted]
    low, high = [end[0] for end in ends], [end[1] for end in ends]
    top = min(1.0, 1.08 * max(float(bins.predicted.max()), *high, 0.05))
    predicted, observed = rounded(bins.predicted), rounded(bins.observed)
    series = (
        Series("", "guide", "line", [0, top], [0, top]),
        Series("", "head", "whiskers", predicted, rounded(np.array(low)), rounded(np.array(high))),
        Series("", "head", "line", predicted, observed),
        Series("a tenth of the users, 95% interval", "head", "dots", predicted, observed),
    )
    axes = Axis("predicted rate", 0, top, True), Axis("observed rate", 0, top, True)
    return Chart("calibration", "Calibration", "On the diagonal, a score is a probability.", *axes, series)


def importance_chart(groups: Mapping[str, float]) -> Chart | None:
    """What the head's scores are made of: mean absolute contributions by group of features.

    Args:
        groups: the card's, the largest first.
    """
    total = sum(groups.values())
    if total <= 0:
        return None
    shares = {name.removeprefix("activity:"): value / total for name, value in groups.items()}
    places = [float(place) for place in range(len(shares), 0, -1)]
    bars = Series(
        "",
        "head",
        "bars",
        rounded(np.array(list(shares.values()))),
        places,
        words=[f"{share:.0%}" for share in shares.values()],
    )
    names = tuple(zip(places, shares, strict=True))
    return Chart(
        "importance",
        "What the score is made of",
        "Mean size of contributions (SHAP): the embedding, each modality's aggregates, the profile.",
        Axis("share of all contributions", 0, 1.18 * max(shares.values()), True),
        Axis("", 0.4, len(shares) + 0.6, ticks=names),
        (bars,),
    )
