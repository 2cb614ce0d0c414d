"""The lift curve of an audience."""

import numpy as np

from qanchor.audience.lift import Quality
from qanchor.charts.chart import Axis, Chart, Series, rounded

_SHARES = 60


def audience_lift_chart(quality: Quality, scenario: str) -> Chart:
    """Lift of held-out seeds by the share of users selected, with its 95% interval.

    Args:
        quality: measured on held-out seeds.
        scenario: name of the scenario.
    """
    # Below the share that holds one seed by chance a lift is mostly noise.
    first = min(max(0.005, 1 / len(quality.ranks)), 0.1)
    points = quality.curve(list(np.geomspace(first, 1.0, _SHARES)))
    shares = rounded(np.array([point.share for point in points]))
    lifts = rounded(np.array([point.lift for point in points]), 4)
    low, high = (rounded(np.array([point.lift_interval[end] for point in points]), 4) for end in (0, 1))
    top = 1.08 * max(2.0, *lifts, *high[_SHARES // 4 :])
    series = (
        Series("", "guide", "line", [0.0, 1.0], [1.0, 1.0]),
        Series("95% interval", "guide", "line", shares, low),
        Series("", "guide", "line", shares, high),
        Series("held-out seeds", "head", "line", shares, lifts),
    )
    return Chart(
        "audience_lift",
        f"{scenario}: lift of held-out seeds",
        "Held-out seeds relative to a random list of the same length.",
        Axis("share of users, highest scores first", 0, 0.5, True),
        Axis("lift", 0, float(top)),
        series,
    )
