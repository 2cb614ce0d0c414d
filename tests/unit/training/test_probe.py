"""The linear probe and the learning rate's course."""

import numpy as np
import pytest

from qanchor.metrics import roc_auc
from qanchor.training.probe import STRENGTHS, fit_probe
from qanchor.training.schedule import warm_up_cosine


def test_the_probe_reads_what_a_straight_line_can() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 5))
    labels = (vectors[:, 2] + 0.3 * rng.normal(size=300) > 0).astype(np.int64)
    probe = fit_probe(vectors[:200], labels[:200], vectors[200:], labels[200:])
    assert probe.strength in STRENGTHS
    assert probe.valid_auc == pytest.approx(roc_auc(labels[200:], probe.scores(vectors[200:])))
    assert probe.valid_auc > 0.95


def test_the_probe_finds_nothing_in_noise() -> None:
    rng = np.random.default_rng(1)
    vectors, labels = rng.normal(size=(600, 5)), rng.integers(0, 2, 600)
    probe = fit_probe(vectors[:400], labels[:400], vectors[400:], labels[400:])
    assert 0.35 < probe.valid_auc < 0.65


def test_the_learning_rate_rises_to_its_peak_and_falls_to_its_floor() -> None:
    shares = [warm_up_cosine(step, 100, 10) for step in range(100)]
    assert shares[9] == pytest.approx(1.0)
    assert shares[:10] == sorted(shares[:10])
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert shares[-1] == pytest.approx(0.02, abs=0.01)
