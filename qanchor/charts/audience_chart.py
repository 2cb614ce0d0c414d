"""The lift curve of an audience, as the reports draw charts."""

from pathlib import Path

import numpy as np

from qanchor.audience.lift import Quality
from qanchor.charts.chart import Axis, Chart, Series
from qanchor.charts.images import save_chart

_SHARES = 60


def audience_lift_chart(quality: Quality, scenario: str) -> Chart:
    """Lift of held-out seeds by the share of users taken, with its 95% interval.

    Args:
        quality: of the search.
        scenario: its name.
    """
    # Below the share that holds one seed by chance a lift is hardly more than luck.
    first = min(max(0.005, 1 / len(quality.ranks)), 0.1)
    points = quality.curve(list(np.geomspace(first, 1.0, _SHARES)))
    shares = [round(point.share, 5) for point in points]
    low, high = ([round(point.lift_interval[end], 4) for point in points] for end in (0, 1))
    top = 1.08 * max(2.0, *(point.lift for point in points), *high[_SHARES // 4 :])
    series = (
        Series("", "guide", "line", [0.0, 1.0], [1.0, 1.0]),
        Series("95% interval", "guide", "line", shares, low),
        Series("", "guide", "line", shares, high),
        Series("held-out seeds", "head", "line", shares, [round(point.lift, 4) for point in points]),
    )
    return Chart(
        "audience_lift",
        f"{scenario}: lift of held-out seeds",
        "Times as many held-out seeds as a random list of the same length holds; 1 is chance.",
        Axis("share of users taken, best first", 0, 0.5, True),
        Axis("lift", 0, float(top)),
        series,
    )


def save_lift_chart(quality: Quality, scenario: str, path: Path) -> None:
    """Write the lift curve as a PNG."""
    save_chart(audience_lift_chart(quality, scenario), path)
