import numpy as np
import pytest

from qanchor.errors import LabelsInvalid
from qanchor.linear_probe import STRENGTHS, ProbeRows, fit_probe
from qanchor.metrics import roc_auc


def probe_rows(size: int = 400) -> ProbeRows:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 2 * size)
    features = random.normal(size=(2 * size, 4)).astype(np.float32)
    features[:, 1] += labels
    return ProbeRows(features[:size], labels[:size], features[size:], labels[size:])


def test_a_probe_finds_a_linear_answer() -> None:
    rows = probe_rows()
    probe = fit_probe(rows)
    assert roc_auc(rows.valid_labels, probe.predict(rows.valid)) == pytest.approx(probe.valid_auc)
    assert probe.valid_auc > 0.7
    assert probe.strength in STRENGTHS


def test_a_probe_finds_nothing_in_noise() -> None:
    rows = probe_rows()
    shuffled = np.random.default_rng(1).permutation(rows.train_labels)
    noise = ProbeRows(
        rows.train, shuffled, rows.valid, np.random.default_rng(2).permutation(rows.valid_labels)
    )
    assert 0.35 < fit_probe(noise).valid_auc < 0.65


def test_a_probe_survives_missing_rows_and_empty_columns() -> None:
    rows = probe_rows()
    rows.train[::3], rows.valid[::3] = np.nan, np.nan
    rows.train[:, 3], rows.valid[:, 3] = np.nan, np.nan
    assert np.isfinite(fit_probe(rows).predict(rows.valid)).all()


def test_quantile_scaling_sees_through_a_heavy_tail() -> None:
    rows = probe_rows()
    heavy = ProbeRows(np.exp(4 * rows.train), rows.train_labels, np.exp(4 * rows.valid), rows.valid_labels)
    assert fit_probe(heavy, "quantile").valid_auc > fit_probe(heavy).valid_auc


def test_one_class_is_refused() -> None:
    rows = probe_rows()
    with pytest.raises(LabelsInvalid, match="one class"):
        fit_probe(ProbeRows(rows.train, np.zeros_like(rows.train_labels), rows.valid, rows.valid_labels))
