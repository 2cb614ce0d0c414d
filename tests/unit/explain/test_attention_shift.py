import numpy as np
import pytest

from qanchor.charts.drawing import draw_chart
from qanchor.explain.attention_shift import AttentionShift, ModalityShift, attention_chart, attention_shift
from qanchor.metrics import Interval
from qanchor.model.attention import PROMPT, QUERY, USER, QueryAttention

GROUPS = (USER, "bill", "search", PROMPT, QUERY)
RANDOM = np.random.default_rng(0)


def attention(*shares: float, users: int = 80, noise: float = 0.01) -> QueryAttention:
    """Two layers of users whose masses lie about the shares given."""
    mass = np.array(shares) * np.exp(RANDOM.normal(0, noise, (2, users, len(shares))))
    return QueryAttention(GROUPS, mass / mass.sum(axis=2, keepdims=True))


def by_name(shift: AttentionShift, name: str) -> float:
    one = next(one for one in shift.modalities if one.name == name)
    assert one.change is not None
    return one.change.value


def test_shares_are_of_the_history_alone_and_their_changes_relative() -> None:
    base = attention(0.1, 0.2, 0.2, 0.0, 0.5, noise=0.0)
    tuned = attention(0.1, 0.3, 0.1, 0.2, 0.3, noise=0.0)
    shift = attention_shift(base, tuned)
    assert list(shift.history) == pytest.approx([0.5, 0.5])
    assert shift.prompt == pytest.approx(0.2)
    assert [one.before for one in shift.modalities] == pytest.approx([0.2, 0.4, 0.4])
    assert [by_name(shift, name) for name in ("bill", "search")] == pytest.approx([0.5, -0.5])
    assert [one.moved for one in shift.modalities] == ["", "more", "less"]
    assert [sum(one.layers[layer] for one in shift.modalities) for layer in (0, 1)] == pytest.approx([1, 1])


def test_the_interval_holds_the_change_and_noise_alone_moves_nothing() -> None:
    # The change is exactly none; each user's own noise must not look like one.
    missed = 0
    for _ in range(60):
        base = attention(0.1, 0.2, 0.2, 0.0, 0.5, noise=0.2)
        tuned = attention(0.1, 0.2, 0.2, 0.1, 0.4, noise=0.2)
        shift = attention_shift(base, tuned)
        missed += sum(one.moved != "" for one in shift.modalities)
    assert missed / 180 < 0.15


def test_an_untuned_scenario_has_a_before_alone() -> None:
    shift = attention_shift(attention(0.1, 0.2, 0.2, 0.0, 0.5), None)
    assert shift.prompt is None
    assert all(one.after is None and one.change is None for one in shift.modalities)
    chart = attention_chart(shift)
    assert [one.name for one in chart.series] == ["untuned"]
    assert "nan" not in draw_chart(chart)


def test_a_model_without_a_user_token_has_no_row_for_it() -> None:
    shift = attention_shift(attention(0, 0.3, 0.2, 0, 0.5), attention(0, 0.2, 0.2, 0.1, 0.5))
    assert [one.name for one in shift.modalities] == ["bill", "search"]


def test_the_chart_shows_both_sides_and_the_change() -> None:
    shift = attention_shift(
        attention(0.1, 0.2, 0.2, 0.0, 0.5, noise=0.0), attention(0.1, 0.3, 0.1, 0.2, 0.3, noise=0.0)
    )
    chart = attention_chart(shift)
    before, after = chart.series
    assert before.x == pytest.approx([0.2, 0.4, 0.4])
    assert after.x == pytest.approx([0.2, 0.6, 0.2])
    assert after.words == ["+0%", "+50%", "-50%"]
    drawn = draw_chart(chart)
    for colour in ("base", "head"):  # two bars for each of three rows
        assert drawn.count(f'style="fill: var(--{colour})"') == 3
    assert "+50%" in drawn


@pytest.mark.parametrize(
    ("interval", "word"),
    [
        (Interval(-1e-16, -3e-16, -1e-16), ""),  # the same shares, summed in another order
        (Interval(2e-16, 1e-16, 4e-16), ""),
        (Interval(-0.01, -0.02, -0.001), "less"),
        (Interval(0.01, 0.001, 0.02), "more"),
        (Interval(0.01, -0.001, 0.02), ""),
    ],
)
def test_a_rounding_error_is_no_change(interval: Interval, word: str) -> None:
    assert ModalityShift("bill", 0.2, 0.2, interval, ()).moved == word
