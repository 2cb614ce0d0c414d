"""What prompt tuning is judged by: equal to slow definitions, for two classes and for more."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from qanchor.linear_probe import ProbeRows
from qanchor.metrics import roc_auc
from qanchor.training.tune_objective import (
    class_auc,
    even_chances,
    geometry_loss,
    initial_prototypes,
    probe_auc,
    spread_of,
)
from qanchor.training.tune_scenarios import choose_rows

CHANCE = np.random.default_rng(3)


def _blobs(classes: int, rows: int = 300, dim: int = 12) -> tuple[np.ndarray, np.ndarray]:
    labels = CHANCE.integers(0, classes, rows)
    vectors = CHANCE.normal(size=(rows, dim)) + 1.5 * np.eye(dim)[labels] + 4 * np.eye(dim)[-1]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


def test_geometry_is_kept_by_rotation_and_scale_and_lost_in_one_direction() -> None:
    base = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    turn, _ = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))
    assert geometry_loss(3 * base @ turn + 1, base).item() == pytest.approx(0, abs=1e-5)
    collapsed = base[:, :1] * torch.ones(8)
    assert geometry_loss(collapsed, base).item() > 0.4
    assert geometry_loss(torch.ones(60, 8), base).item() == pytest.approx(1)


def test_areas_of_two_and_of_more_classes() -> None:
    vectors, labels = _blobs(2)
    scores = vectors[:, :2]
    assert class_auc(labels, scores) == roc_auc(labels, scores[:, 1] - scores[:, 0])
    _, labels = _blobs(4)
    # Scores that sum to a constant: the gap to the best of the others orders as the chance does.
    certain = np.eye(4)[labels] * 5 + CHANCE.normal(size=(len(labels), 4)) * 0.1
    chances = np.exp(certain) / np.exp(certain).sum(axis=1, keepdims=True)
    assert class_auc(labels, chances) == roc_auc_score(labels, chances, multi_class="ovr") == 1
    assert class_auc(labels, CHANCE.normal(size=(len(labels), 4))) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_prototypes_begin_as_a_classifier_of_all_classes(classes: int) -> None:
    vectors, labels = _blobs(classes)
    prototypes = torch.nn.functional.normalize(initial_prototypes(vectors, labels, classes, 0.07), dim=-1)
    assert prototypes.shape == (classes, 12)
    scores = vectors @ prototypes.numpy().T
    assert class_auc(labels, scores) > 0.9
    # No class is favoured: each is named about as often as it comes.
    named = np.bincount(scores.argmax(axis=1), minlength=classes) / len(labels)
    assert np.abs(named - np.bincount(labels, minlength=classes) / len(labels)).max() < 0.12


def test_a_probe_of_many_classes_is_judged_class_by_class() -> None:
    train, valid = _blobs(3), _blobs(3)
    assert probe_auc(ProbeRows(*train, *valid)) == pytest.approx(
        0.9, abs=0.03
    )  # what many such rows converge to
    shuffled = train[0], CHANCE.permutation(train[1])
    assert probe_auc(ProbeRows(*shuffled, *valid)) < 0.75


def test_spread_counts_directions() -> None:
    even = spread_of(CHANCE.normal(size=(5_000, 10)).astype(np.float32))
    assert even["directions"] == pytest.approx(10, abs=0.3)
    assert even["two"] == pytest.approx(0.2, abs=0.02)
    line = spread_of(np.outer(CHANCE.normal(size=100), np.ones(10)).astype(np.float32))
    assert line["directions"] == pytest.approx(1, abs=0.01)


def test_a_sample_keeps_rare_classes_whole_and_fills_up_with_the_others() -> None:
    labels = np.zeros(1_000, np.int64)
    labels[::50] = 1
    labels[1::100] = 2
    kept = choose_rows(np.arange(1_000), labels, 100, seed=0)
    assert np.bincount(labels[kept]).tolist() == [70, 20, 10]
    assert (np.diff(kept) > 0).all()
    assert np.array_equal(choose_rows(np.arange(40), labels[:40], 100, seed=0), np.arange(40))


def test_scenarios_of_one_size_take_the_same_requests() -> None:
    requests = CHANCE.permutation(1_000)
    first, second = (CHANCE.integers(0, 2, 1_000) for _ in range(2))
    one, two = (set(requests[choose_rows(requests, some, 400, seed=0)].tolist()) for some in (first, second))
    # Half of each class by one order: far more than the 40% that chance would share.
    assert len(one & two) > 320


def test_a_batch_holds_as_much_of_each_class() -> None:
    labels = np.array([0] * 90 + [1] * 9 + [2])
    chances = even_chances(labels)
    assert [chances[labels == k].sum() for k in range(3)] == pytest.approx([1 / 3] * 3)
