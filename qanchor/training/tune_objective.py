"""What prompt tuning starts from, minimises and is judged by, for any number of classes.

Source: arXiv 2602.14492, section 3.2.3 and Eq. 7.
"""

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

    The vectors lie in a narrow cone, where the class means differ less than chance moves them; the
    discriminant starts the tuning from what a linear probe would see.

    Args:
        vectors: unit vectors, [rows, dim].
        labels: class of each row, [rows]; every class is there.
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


def geometry_loss(vectors: Tensor, base: Tensor) -> Tensor:
    """How much of the base embedding's geometry is lost: 1 minus the linear CKA of the two.

    Labels of one scenario ask for one direction. Where they are few, what tells users apart in all others is
    free to vanish, and with it what a linear probe, a head or a lookalike search would read there.

    Args:
        vectors: of some users, [users, dim].
        base: of the same users before tuning, [users, dim].

    Returns:
        In [0, 1], shape (); 0 where users lie to each other as before, up to rotation and scale.

    Source: Kornblith et al., arXiv 1905.00414.
    """
    own, before = vectors - vectors.mean(0), base - base.mean(0)
    own_gram, before_gram = own @ own.T, before @ before.T
    norms = own_gram.norm() * before_gram.norm()
    loss: Tensor = 1 - (own_gram * before_gram).sum() / norms.clamp(min=1e-12)
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


def probe_auc(train: tuple[Floats, Int64], valid: tuple[Floats, Int64]) -> float:
    """What linear probes on the vectors reach on the validation part, one class against the others.

    Args:
        train: vectors and labels to fit on.
        valid: vectors and labels to choose the probe's strength with, and to judge by.
    """
    classes = int(train[1].max()) + 1
    areas = []
    for number in range(1, classes) if classes == 2 else range(classes):
        wanted = [(labels == number).astype(np.int64) for labels in (train[1], valid[1])]
        areas.append(fit_probe(ProbeRows(train[0], wanted[0], valid[0], wanted[1])).valid_auc)
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
    """How far each class's score lies above the best of the others, [rows, classes]."""
    every = scores.astype(np.float64)
    best = np.sort(every, axis=1)
    others = np.where(every == best[:, -1:], best[:, -2:-1], best[:, -1:])
    return every - others
