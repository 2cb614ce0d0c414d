import numpy as np
import pytest
from sklearn.decomposition import PCA

from qanchor.charts.chart import Chart
from qanchor.charts.drawing import draw_chart
from qanchor.charts.embedding_maps import pca_chart, sample_rows, tsne_chart

RANDOM = np.random.default_rng(0)
LABELS = np.repeat(np.array([0, 1], np.int64), [90, 30])
VECTORS = RANDOM.normal(size=(120, 8)).astype(np.float32)
VECTORS[LABELS == 1, :3] += 6


def points(chart: Chart, label: int) -> np.ndarray:
    series = next(one for one in chart.series if one.name == f"label {label}")
    return np.array([series.x, series.y]).T


def test_both_maps_draw_every_row_in_the_colour_of_its_label() -> None:
    for chart in (pca_chart("pca", "PCA", VECTORS, LABELS), tsne_chart("tsne", "t-SNE", VECTORS, LABELS)):
        assert chart is not None
        assert [len(points(chart, label)) for label in (0, 1)] == [90, 30]
        assert [one.tone for one in chart.series] == ["negative", "positive"]
        apart = np.linalg.norm(points(chart, 1).mean(axis=0) - points(chart, 0).mean(axis=0))
        assert apart > np.ptp(points(chart, 1), axis=0).max() / 2


def test_the_pca_says_how_much_of_the_variance_it_shows() -> None:
    expected = PCA(2).fit(VECTORS).explained_variance_ratio_.sum()
    assert f"{expected:.0%}" in pca_chart("pca", "PCA", VECTORS, LABELS).note


def test_the_same_vectors_give_the_same_map() -> None:
    assert tsne_chart("t", "t", VECTORS, LABELS) == tsne_chart("t", "t", VECTORS, LABELS)


@pytest.mark.parametrize("vectors", [np.ones((10, 4), np.float32), VECTORS[:10, :1], VECTORS[:2]])
def test_equal_narrow_or_few_vectors_are_drawn_without_a_fault(vectors: np.ndarray) -> None:
    labels = np.array([0, 1] * 5, np.int64)[: len(vectors)]
    assert "nan" not in draw_chart(pca_chart("pca", "PCA", vectors, labels)).lower()
    assert tsne_chart("tsne", "t-SNE", vectors, labels) is None


def test_a_sample_is_as_large_as_asked_ascending_and_the_same_each_time() -> None:
    rows = sample_rows(3000, 500)
    assert len(set(rows.tolist())) == 500
    assert rows.tolist() == sorted(rows.tolist()) == sample_rows(3000, 500).tolist()
    assert sample_rows(40, 500).tolist() == list(range(40))
