"""What prompt tuning starts from, draws, minimises and is judged by, for any number of classes.

Source: arXiv 2602.14492, section 3.2.3 and Eq. 7.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qanchor.linear_probe import ProbeRows, fit_probe
from qanchor.metrics import roc_auc

Int64 = NDArray[np.int64]
Floats = NDArray[np.float32]


def initial_prototypes(vectors: Floats, labels: Int64, classes: int, temperature: float) -> Tensor:
    """One direction for each class, whose differences are the linear discriminants on the base vectors.

    The vectors are in a narrow cone, where the class means differ less than by chance; from the
    discriminants, tuning starts at the accuracy of a linear probe.

    Args:
        vectors: unit vectors, [rows, dim].
        labels: class of each row, [rows]; no class is missing.
        classes: how many there are.
        temperature: of the softmax, which decides how far apart they begin.

    Returns:
        float32 [classes, dim].
    """
    rows = vectors.astype(np.float64)
    means = np.stack([rows[labels == k].mean(0) for k in range(classes)])
    centre = means.mean(0)
    within = rows - means[labels]
    spread = within.T @ within / len(within)
    ridge = 0.1 * np.trace(spread) / len(spread) + 1e-9
    axes = np.linalg.solve(spread + ridge * np.eye(len(spread)), (means - centre).T).T
    # Moved along the centre until the point between the classes scores the same for all.
    axes -= np.outer(axes @ centre, centre) / (centre @ centre)
    axes *= temperature / 2 / max(1e-9, float(np.mean(np.std(within @ axes.T, axis=0))))
    return torch.from_numpy((centre / np.linalg.norm(centre) + axes).astype(np.float32))


def even_chances(labels: Int64) -> NDArray[np.float64]:
    """The chance of each row to be drawn, so that a batch holds as much of each class, [rows].

    Args:
        labels: class of each row, [rows].
    """
    counts = np.bincount(labels)
    chances: NDArray[np.float64] = 1.0 / counts[labels] / np.count_nonzero(counts)
    return chances


def geometry_loss(vectors: Tensor, base: Tensor) -> Tensor:
    """How much of the base embedding's geometry is lost: 1 minus the linear CKA of the two.

    Labels of one scenario need one direction. Where they are few, nothing keeps the others, which tell users
    apart too, and which a linear probe, a head or a lookalike search would read.

    Args:
        vectors: some users' vectors, [users, dim].
        base: vectors of the same users before tuning, [users, dim].

    Returns:
        In [0, 1], shape (); 0 where the geometry is as before, up to rotation and scale.

    Source: Kornblith et al., arXiv 1905.00414.
    """
    after, before = vectors - vectors.mean(0), base - base.mean(0)
    after_gram, before_gram = after @ after.T, before @ before.T
    norms = after_gram.norm() * before_gram.norm()
    loss: Tensor = 1 - (after_gram * before_gram).sum() / norms.clamp(min=1e-12)
    return loss


def class_auc(labels: Int64, scores: NDArray[np.floating]) -> float:
    """The area of each class against the others, averaged; with two classes the usual one.

    Args:
        labels: class of each row, [rows].
        scores: of each class, [rows, classes].
    """
    classes = scores.shape[1]
    if classes == 2:
        return float(roc_auc(labels, scores[:, 1] - scores[:, 0]))
    rest = _rest_scores(scores)
    return float(np.mean([roc_auc(labels == k, rest[:, k]) for k in range(classes)]))


def probe_auc(rows: ProbeRows) -> float:
    """The area of linear probes on the validation rows, one class against the others, averaged.

    Args:
        rows: vectors to fit the probes on and to choose their strength by; labels are classes from 0.
    """
    classes = int(rows.train_labels.max()) + 1
    areas = []
    for number in range(1, classes) if classes == 2 else range(classes):
        train, valid = (
            (labels == number).astype(np.int64) for labels in (rows.train_labels, rows.valid_labels)
        )
        areas.append(fit_probe(replace(rows, train_labels=train, valid_labels=valid)).valid_auc)
    return float(np.mean(areas))


def spread_of(vectors: Floats) -> dict[str, float]:
    """How many directions the vectors use: the share of the variance that two hold, and their number.

    Args:
        vectors: [rows, dim].

    Returns:
        `two` in (0, 1], and `directions`, the inverse of the sum of squared shares.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    shares = np.linalg.svd(centred, compute_uv=False) ** 2
    shares = shares / max(float(shares.sum()), 1e-30)
    two, directions = float(shares[:2].sum()), 1 / max(float((shares**2).sum()), 1e-30)
    return {"two": round(two, 4), "directions": round(directions, 2)}


def _rest_scores(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Each class's score minus the best of the others, [rows, classes]."""
    every = scores.astype(np.float64)
    best = np.sort(every, axis=1)
    others = np.where(every == best[:, -1:], best[:, -2:-1], best[:, -1:])
    return every - others
