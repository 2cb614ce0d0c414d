"""What the report plots, as numbers: a chart is data first, then SVG for the page and PNG beside it."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qanchor import metrics

Tone = Literal["head", "probe", "aggregates", "positive", "negative", "guide"]
Shape = Literal["line", "area", "dots", "points"]
Labels = NDArray[np.int64]
Scores = NDArray[np.float64]
_MOST_POINTS = 160
SCORER_NAMES: dict[str, str] = {"head": "head", "probe": "linear probe", "aggregates": "aggregates"}


@dataclass(frozen=True)
class Series:
    """One line, area or set of points.

    Args:
        name: in the legend; empty: not listed there.
        tone: its role, which the theme gives a colour.
        shape: how it is drawn; `dots` are joined to nothing and large, `points` small.
        x: positions in the chart's range.
        y: as long as x.
    """

    name: str
    tone: Tone
    shape: Shape
    x: list[float]
    y: list[float]


@dataclass(frozen=True)
class Axis:
    """One axis.

    Args:
        label: what it measures; empty: no axis is drawn.
        low: left or lower end.
        high: right or upper end.
        percent: ticks are shares.
        ticks: places and words, where they are not evenly spaced numbers.
    """

    label: str
    low: float
    high: float
    percent: bool = False
    ticks: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Chart:
    """A chart, independent of how it is drawn.

    Args:
        name: file name of its PNG.
        title: above it.
        note: one line below the title that says what to look for.
        x: horizontal axis.
        y: vertical axis.
        series: drawn in this order.
        rules: x positions of vertical rules, with what they mean.
    """

    name: str
    title: str
    note: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    rules: tuple[tuple[float, str], ...] = field(default=())


def _thin(*columns: NDArray[np.float64]) -> list[list[float]]:
    """The columns at up to 160 places spread over the length of the curve, both ends kept."""
    size = len(columns[0])
    if size > _MOST_POINTS:
        steps = sum(np.abs(np.diff(column)) / max(float(np.ptp(column)), 1e-12) for column in columns)
        travelled = np.concatenate(([0.0], np.cumsum(np.asarray(steps, dtype=np.float64))))
        wanted = np.linspace(0, travelled[-1], _MOST_POINTS)
        places = np.unique(np.append(np.searchsorted(travelled, wanted).clip(0, size - 1), (0, size - 1)))
        columns = tuple(column[places] for column in columns)
    return [[round(float(value), 5) for value in column] for column in columns]


def roc_chart(labels: Labels, scores: dict[str, Scores]) -> Chart:
    """The receiver operating characteristic of the head and its baselines."""
    series = [Series("", "guide", "line", [0, 1], [0, 1])]
    for name in ("aggregates", "probe", "head"):
        if name in scores:
            curve = metrics.roc_curve(labels, scores[name])
            x, y = _thin(curve.false_positive_rate, curve.true_positive_rate)
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
    x, caught, wrong = _thin(taken, curve.true_positive_rate, curve.false_positive_rate)
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


def calibration_chart(labels: Labels, scores: Scores) -> Chart:
    """Predicted against observed rates, in tenths of the users."""
    bins = metrics.calibration_bins(labels, scores)
    top = min(1.0, 1.15 * float(max(bins.predicted.max(), bins.observed.max(), 0.05)))
    points = [round(float(v), 5) for v in bins.predicted], [round(float(v), 5) for v in bins.observed]
    series = (
        Series("", "guide", "line", [0, top], [0, top]),
        Series("", "head", "line", *points),
        Series("a tenth of the users", "head", "dots", *points),
    )
    axes = Axis("predicted rate", 0, top, True), Axis("observed rate", 0, top, True)
    return Chart("calibration", "Calibration", "On the diagonal, a score is a probability.", *axes, series)


def map_chart(vectors: NDArray[np.float32], labels: Labels, most: int = 1_200, seed: int = 7) -> Chart:
    """The embeddings' first two principal components, coloured by label.

    Args:
        vectors: (rows, width), finite.
        labels: 0 or 1, (rows,).
        most: rows drawn, taken at random in the proportion of the classes.
        seed: of that choice.
    """
    if len(vectors) > most:
        chosen = np.sort(np.random.default_rng(seed).choice(len(vectors), most, replace=False))
        vectors, labels = vectors[chosen], labels[chosen]
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    flat = centred @ axes[:2].T
    if flat.shape[1] < 2:
        flat = np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
    explained = float((spread[:2] ** 2).sum() / max((spread**2).sum(), 1e-12))
    low, high = np.quantile(flat, (0.005, 0.995), axis=0)
    margin = 0.06 * np.maximum(high - low, 1e-6)
    flat = np.clip(flat, low - margin / 2, high + margin / 2)
    series = []
    classes: tuple[tuple[int, Tone], ...] = ((0, "negative"), (1, "positive"))
    for label, tone in classes:
        rows = flat[labels == label]
        x, y = ([round(float(v), 4) for v in rows[:, axis]] for axis in range(2))
        series.append(Series(f"label {label}", tone, "points", x, y))
    bounds = [Axis("", float(low[i] - margin[i]), float(high[i] + margin[i])) for i in range(2)]
    note = f"Two principal components of the embedding; they hold {explained:.0%} of its variance."
    return Chart("map", "Embedding map", note, bounds[0], bounds[1], tuple(series))
