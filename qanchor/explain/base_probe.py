"""What tuning brought on the test part: a linear probe on the untuned and on the tuned embedding."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qanchor.heads.figures import figures
from qanchor.linear_probe import ProbeRows, fit_probe
from qanchor.metrics import AucTest, compare_auc
from qanchor.names import SPLITS

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class ProbedRows:
    """Rows of a head's frame with both embeddings.

    Args:
        place: of each row in the frame, (rows,).
        part: index into SPLITS, (rows,).
        labels: 0 or 1, (rows,).
        base: of the query alone, (rows, dim).
        tuned: that the head was fitted on, (rows, dim).
    """

    place: NDArray[np.int64]
    part: NDArray[np.int8]
    labels: NDArray[np.int64]
    base: Vectors
    tuned: Vectors

    def of(self, part: str) -> NDArray[np.bool_]:
        """Which rows belong to a part, (rows,)."""
        return np.asarray(self.part == SPLITS.index(part))


@dataclass(frozen=True)
class TuningGain:
    """Both probes on the test rows.

    Args:
        rows: fitted and tested on, by part.
        sampled: whether the frame has more rows than were taken.
        base: figures of the probe on the untuned embedding, as a head's card has them.
        tuned: figures of the probe on the embedding in service.
        test: DeLong's paired test of their areas, tuned less base.
        test_rows: places in the frame of the rows that were tested on.
        base_scores: of those rows.
        tuned_scores: of those rows.
    """

    rows: dict[str, int]
    sampled: bool
    base: dict[str, float]
    tuned: dict[str, float]
    test: AucTest
    test_rows: NDArray[np.int64]
    base_scores: NDArray[np.float64]
    tuned_scores: NDArray[np.float64]


def choose_rows(part: NDArray[np.int8], held: NDArray[np.bool_], most: dict[str, int]) -> NDArray[np.int64]:
    """Places of the rows to compare on, ascending: all, or a random choice of a part that has too many.

    Args:
        part: index into SPLITS, (rows,).
        held: rows with a vector, (rows,).
        most: rows of each part.
    """
    random, chosen = np.random.default_rng(7), []
    for place, name in enumerate(SPLITS):
        rows = np.flatnonzero((part == place) & held)
        chosen.append(rows if len(rows) <= most[name] else random.choice(rows, most[name], replace=False))
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def tuning_gain(rows: ProbedRows, frame_rows: int) -> TuningGain:
    """Fit both probes on the training rows, choose their strength on the validation rows, test them.

    Args:
        rows: with both embeddings.
        frame_rows: rows of the frame that have a vector.

    Raises:
        LabelsInvalid: a part holds one class.
    """
    test, labels = rows.of("test"), rows.labels
    scores = [_probe(rows, vectors) for vectors in (rows.base, rows.tuned)]
    return TuningGain(
        rows={part: int(rows.of(part).sum()) for part in SPLITS},
        sampled=len(labels) < frame_rows,
        base=figures(labels[test], scores[0]),
        tuned=figures(labels[test], scores[1]),
        test=compare_auc(labels[test], scores[1], scores[0]),
        test_rows=rows.place[test],
        base_scores=scores[0],
        tuned_scores=scores[1],
    )


def _probe(rows: ProbedRows, vectors: Vectors) -> NDArray[np.float64]:
    from threadpoolctl import threadpool_limits

    train, valid, test = (rows.of(part) for part in SPLITS)
    # Newton's products are small: shared out between busy cores they take ten times as long.
    with threadpool_limits(1, user_api="blas"):
        fitted = fit_probe(ProbeRows(vectors[train], rows.labels[train], vectors[valid], rows.labels[valid]))
        return fitted.predict(vectors[test])
