"""The learning rate's course."""

import pytest

from qanchor.training.schedule import warm_up_cosine


def test_the_learning_rate_rises_to_its_peak_and_falls_to_its_floor() -> None:
    shares = [warm_up_cosine(step, 100, 10) for step in range(100)]
    assert shares[9] == pytest.approx(1.0)
    assert shares[:10] == sorted(shares[:10])
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert shares[-1] == pytest.approx(0.02, abs=0.01)
