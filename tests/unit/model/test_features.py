"""Numeric features: scaled by the training events, finite for any input, equal to slow loops."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as numpy_arrays

from qanchor.errors import CheckpointInvalid
from qanchor.events.history import EventArrays
from qanchor.model.features import (
    Normaliser,
    event_feature_width,
    event_features,
    summary_feature_width,
    summary_features,
)
from tests.unit.model.worlds import HOUR, WORKSPACE, random_arrays

PAY = WORKSPACE.modalities["pay"]
NORMALISER = Normaliser.fit(random_arrays(1, events=200), WORKSPACE.modalities)


def test_known_numbers_have_mean_zero_and_spread_one() -> None:
    raw = random_arrays(1, events=200).modalities[0].numbers
    scaled = NORMALISER.apply("pay", PAY, raw)
    np.testing.assert_allclose(np.nanmean(scaled, axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(np.nanstd(scaled, axis=0), 1, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    numpy_arrays(
        np.float64, (4, 2), elements=st.floats(-1e15, 1e15, allow_subnormal=False) | st.just(float("nan"))
    )
)
def test_features_are_finite_for_any_number(raw: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> None:
    age = np.array([0, 1, HOUR, 90 * 24 * HOUR])
    values = NORMALISER.apply("pay", PAY, raw)
    events = event_features(values, age, np.array([-1, 0, HOUR, HOUR]), age, 30)
    user = np.array([0, 0, 1, 3])
    summary = summary_features(values, raw, age[::-1], user, np.array([2, 1, 0, 1]))
    assert events.shape == (4, event_feature_width(PAY))
    assert summary.shape == (4, summary_feature_width(PAY))
    assert np.isfinite(events).all()
    assert np.isfinite(summary).all()


def test_a_missing_number_is_marked_and_no_zero_amount() -> None:
    values = np.array([[np.nan, 0.0], [0.0, 0.0]])
    zero = np.zeros(2, dtype=np.int64)
    features = event_features(values, zero, zero, zero, 30)
    assert features[0, 2] == 1
    assert features[1, 2] == 0


def test_summaries_equal_a_slow_loop() -> None:
    raw = np.array([[10.0], [-4.0], [5.0], [6.0], [7.0]])
    values = np.array([[1.0], [-1.0], [0.5], [0.6], [np.nan]])
    age = np.array([40 * 24, 20 * 24, 3 * 24 + 5, 3 * 24, 2 * 24]) * HOUR
    user = np.array([0, 0, 0, 0, 2])
    window_events = np.array([6, 0, 1])
    result = summary_features(values, raw, age, user, window_events)
    for person in range(3):
        own = user == person
        expected = [np.log1p(own.sum()), np.log1p(window_events[person])]
        expected += [np.log1p((own & (age <= days * 24 * HOUR)).sum()) for days in (1, 7, 30)]
        days = set((age[own] // (24 * HOUR)).tolist())
        expected += [len({day for day in days if day < limit}) / 30 for limit in (7, 30, 1_000)]
        ages = np.log1p(age[own] / HOUR) / 5
        expected += [ages.min(), ages.max()] if own.any() else [0, 0]
        for limit in (1_000, 7, 30):
            total = raw[own & (age <= limit * 24 * HOUR), 0].sum()
            expected.append(np.sign(total) * np.log1p(abs(total)) / 5)
        expected.append(np.nansum(values[own, 0]) / max(1, own.sum()))
        np.testing.assert_allclose(result[person], expected, rtol=1e-6)


def test_statistics_survive_json() -> None:
    again = Normaliser.from_json(NORMALISER.to_json())
    raw = random_arrays(3).modalities[0].numbers
    np.testing.assert_array_equal(again.apply("pay", PAY, raw), NORMALISER.apply("pay", PAY, raw))


def test_a_missing_statistic_is_refused() -> None:
    with pytest.raises(CheckpointInvalid, match="spread"):
        Normaliser.from_json({"pay": {"mean": [0.0]}})


def test_a_constant_number_does_not_divide_by_zero() -> None:
    pay = random_arrays(1).modalities[0]
    constant = replace(pay, numbers=np.full_like(pay.numbers, 3.0))
    fitted = Normaliser.fit(EventArrays(np.array(["u"]), (), (constant,)), {"pay": PAY})
    np.testing.assert_allclose(fitted.apply("pay", PAY, constant.numbers), 0.0, atol=1e-12)
