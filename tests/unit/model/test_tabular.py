"""Aggregates: what an analyst would count by hand, and nothing at or after the cut-off."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.aggregates import tabular_spans
from qanchor.events.history import ModalityEvents
from qanchor.model.tabular import tabular_features, tabular_width
from tests.unit.model.worlds import HOUR, START, make_world, random_arrays, slices_at

WORLD = make_world()
DAY = 24 * HOUR
PER_SPAN = 3 + 2 * 2  # events, moments, days; sum and mean of two numbers


def test_the_columns_of_a_user_equal_a_slow_count() -> None:
    arrays = random_arrays(4, users=3, events=200)
    found = tabular_features(arrays, slices_at(arrays, [1], [900]), WORLD.normaliser, WORLD.config)[0]
    pay, cutoff = arrays.modalities[0], START + 900 * HOUR
    own = slice(pay.offsets[1], pay.offsets[2])
    for place, days in enumerate(tabular_spans(30)):
        inside = (pay.time[own] < cutoff) & (pay.time[own] >= cutoff - days * DAY)
        times, amounts = pay.time[own][inside], pay.numbers[own][inside, 0]
        columns = found[place * PER_SPAN :]
        np.testing.assert_allclose(np.expm1(columns[0]), len(times), rtol=1e-5)
        np.testing.assert_allclose(np.expm1(columns[1]), len(set(times.tolist())), rtol=1e-5)
        days_seen = {int(cutoff - time) // DAY for time in times}
        np.testing.assert_allclose(np.expm1(columns[2]), len(days_seen), rtol=1e-5)
        total = float(amounts.sum())
        np.testing.assert_allclose(columns[3], np.sign(total) * np.log1p(abs(total)), rtol=1e-5)
    rhythm = found[len(tabular_spans(30)) * PER_SPAN :]
    seen = np.unique(pay.time[own][pay.time[own] < cutoff])
    seen = seen[seen >= cutoff - 30 * DAY]
    np.testing.assert_allclose(np.expm1(rhythm[0]), (cutoff - seen[-1]) / DAY, rtol=1e-5)
    np.testing.assert_allclose(np.expm1(rhythm[2]), np.diff(seen).mean() / DAY, rtol=1e-5)
    np.testing.assert_allclose(np.expm1(rhythm[4]), np.median(np.diff(seen)) / DAY, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 5), st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 1000)), min_size=1, max_size=6)
)
def test_they_are_finite_and_a_user_s_own(seed: int, requests: list[tuple[int, int]]) -> None:
    arrays = random_arrays(seed)
    rows, hours = [r % len(arrays.users) if r >= 0 else -1 for r, _ in requests], [h for _, h in requests]
    together = tabular_features(arrays, slices_at(arrays, rows, hours), WORLD.normaliser, WORLD.config)
    assert together.shape == (len(rows), tabular_width(WORLD.config))
    assert np.isfinite(together).all()
    for place, (row, hour) in enumerate(zip(rows, hours, strict=True)):
        alone = tabular_features(arrays, slices_at(arrays, [row], [hour]), WORLD.normaliser, WORLD.config)
        np.testing.assert_allclose(together[place], alone[0], atol=1e-5)


def test_nothing_at_or_after_the_cutoff_counts() -> None:
    arrays, cutoff = random_arrays(4), START + 500 * HOUR
    slices = slices_at(arrays, [0, 1, 2], [500] * 3)
    before = tabular_features(arrays, slices, WORLD.normaliser, WORLD.config)
    changed = replace(arrays, modalities=tuple(_after_spoiled(e, cutoff) for e in arrays.modalities))
    again = slices_at(changed, [0, 1, 2], [500] * 3)
    np.testing.assert_array_equal(before, tabular_features(changed, again, WORLD.normaliser, WORLD.config))


def _after_spoiled(events: ModalityEvents, cutoff: int) -> ModalityEvents:
    numbers, text = events.numbers.copy(), events.text.copy()
    late = events.time >= cutoff
    assert late.any()
    numbers[late], text[late] = 1e9, 0
    return replace(events, numbers=numbers, text=text)


def test_events_beyond_the_most_that_are_kept_still_count() -> None:
    arrays = random_arrays(4, users=2, events=200)
    slices = slices_at(arrays, [0], [960])
    assert (slices.window_events > slices.stop - slices.start).any()
    found = tabular_features(arrays, slices, WORLD.normaliser, WORLD.config)[0]
    whole_window = (len(tabular_spans(30)) - 1) * PER_SPAN
    np.testing.assert_allclose(np.expm1(found[whole_window]), slices.window_events[0, 0], rtol=1e-5)
