"""The attention of a scenario's anchor as a chart."""

from qanchor.charts.chart import Axis, Chart, Series
from qanchor.explain.attention_shift import AttentionShift, ModalityShift

_APART = 0.19


def attention_chart(shift: AttentionShift) -> Chart:
    """Shares of the history's attention by modality, before and after tuning."""
    rows = [float(place) for place in range(len(shift.modalities), 0, -1)]
    tuned = shift.prompt is not None
    before = [one.before for one in shift.modalities]
    after = [one.after for one in shift.modalities if one.after is not None]
    top = max([*before, *after])
    series = [
        Series(
            "before tuning" if tuned else "untuned",
            "base",
            "bars",
            [round(value, 5) for value in before],
            [row + _APART for row in rows] if tuned else rows,
            words=[] if tuned else [f"{value:.0%}" for value in before],
        )
    ]
    if tuned:
        series.append(
            Series(
                "after tuning",
                "head",
                "bars",
                [round(value, 5) for value in after],
                [row - _APART for row in rows],
                words=[_words(one) for one in shift.modalities],
            )
        )
    names = tuple((row, one.name) for row, one in zip(rows, shift.modalities, strict=True))
    return Chart(
        "attention",
        "Where the anchor looks",
        f"Attention on the history by modality: all layers and heads, {shift.users} test users.",
        Axis("share of the attention on the history", 0, 1.28 * top, True),
        Axis("", 0.4, len(rows) + 0.6, ticks=names),
        tuple(series),
    )


def _words(one: ModalityShift) -> str:
    # Adding 0 turns a rounded -0 into 0.
    return "" if one.change is None else f"{round(one.change.value, 2) + 0.0:+.0%}"
