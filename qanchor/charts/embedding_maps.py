"""Maps of embeddings in two dimensions, coloured by label.

Source: arXiv 2602.14492, Fig. 9 and 12.
"""

import numpy as np
from numpy.typing import NDArray

from qanchor.charts.chart import Axis, Chart, Series, Tone, rounded

Labels = NDArray[np.int64]
Vectors = NDArray[np.float32]
Flat = NDArray[np.float64]
# Fewer rows than this have no neighbourhood to show.
FEWEST_NEIGHBOURS = 12
_SEED = 7  # the same vectors give the same map
_CLASSES: tuple[tuple[int, Tone], ...] = ((0, "negative"), (1, "positive"))


def sample_rows(rows: int, most: int) -> NDArray[np.int64]:
    """Up to `most` random rows, ascending."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(_SEED).choice(rows, most, replace=False))


def pca_chart(name: str, title: str, vectors: Vectors, labels: Labels) -> Chart:
    """The first two principal components.

    Args:
        name: name of the chart.
        title: heading of the chart.
        vectors: finite vectors, (rows, width).
        labels: 0 or 1, (rows,).
    """
    from sklearn.decomposition import PCA

    parts = min(2, *vectors.shape)
    # Equal vectors have no variance to divide; sklearn would warn of it.
    if np.ptp(vectors, axis=0).max() < 1e-9:
        flat, explained = np.zeros((len(vectors), 2)), 0.0
    else:
        model = PCA(parts, svd_solver="full").fit(vectors.astype(np.float64))
        flat, explained = (
            model.transform(vectors.astype(np.float64)),
            float(model.explained_variance_ratio_.sum()),
        )
        flat = np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
    note = f"The first two principal components explain {explained:.0%} of the variance."
    return _points(name, title, note, flat, labels)


def tsne_chart(name: str, title: str, vectors: Vectors, labels: Labels) -> Chart | None:
    """Neighbourhoods by t-SNE; None where there are too few rows, or all are equal.

    Args:
        name: name of the chart.
        title: heading of the chart.
        vectors: finite vectors, (rows, width); a thousand rows take about five seconds.
        labels: 0 or 1, (rows,).
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(vectors) < FEWEST_NEIGHBOURS or np.ptp(vectors, axis=0).max() < 1e-9:
        return None
    nearest = min(30.0, (len(vectors) - 1) / 4)
    # Unit vectors: the Euclidean distance orders neighbours as the cosine does.
    model = TSNE(init="pca", perplexity=nearest, max_iter=300, random_state=_SEED, n_jobs=1)
    # The steps are too short to be parallel: on busy cores the threads' waiting costs a hundredfold.
    with threadpool_limits(1, user_api="openmp"):
        flat = np.asarray(model.fit_transform(vectors.astype(np.float64)), dtype=np.float64)
    note = "t-SNE keeps neighbours together; distances between clusters have no meaning."
    return _points(name, title, note, flat, labels)


def _points(name: str, title: str, note: str, flat: Flat, labels: Labels) -> Chart:
    low, high = np.quantile(flat, (0.005, 0.995), axis=0)
    margin = 0.06 * np.maximum(high - low, 1e-6)
    flat = np.clip(flat, low - margin / 2, high + margin / 2)
    series = []
    for label, tone in _CLASSES:
        rows = flat[labels == label]
        series.append(
            Series(f"label {label}", tone, "points", rounded(rows[:, 0], 3), rounded(rows[:, 1], 3))
        )
    bounds = [Axis("", float(low[i] - margin[i]), float(high[i] + margin[i])) for i in range(2)]
    return Chart(name, title, note, bounds[0], bounds[1], tuple(series))
