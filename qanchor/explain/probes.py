"""Baselines on the test part: linear probes on both embeddings, and the scenario's answers without labels."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qanchor.audience.zero_label import read_answers
from qanchor.errors import InputError
from qanchor.heads.figures import figures
from qanchor.linear_probe import ProbeRows, fit_probe
from qanchor.metrics import AucTest, Interval, auc_interval, compare_auc
from qanchor.model.checkpoint import LoadedModel
from qanchor.names import SPLITS
from qanchor.workspace import Workspace

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class ProbedRows:
    """Rows of a head's frame with both embeddings.

    Args:
        frame_rows: index of each row in the frame, (rows,).
        part: index into SPLITS, (rows,).
        labels: 0 or 1, (rows,).
        base: vectors of the query alone, (rows, dim).
        tuned: vectors that the head was fitted on, (rows, dim).
    """

    frame_rows: NDArray[np.int64]
    part: NDArray[np.int8]
    labels: NDArray[np.int64]
    base: Vectors
    tuned: Vectors

    def of(self, part: str) -> NDArray[np.bool_]:
        """Which rows belong to a part, (rows,)."""
        return np.asarray(self.part == SPLITS.index(part))


@dataclass(frozen=True)
class TuningGain:
    """Linear probes on the untuned and on the tuned embedding.

    Args:
        rows: number of rows fitted and tested on, by part.
        sampled: whether the frame has more rows.
        base: metrics of the probe on the untuned embedding, named as in a head's card.
        tuned: metrics of the probe on the embedding in service.
        test: DeLong's paired test of their AUCs, tuned less base.
        test_rows: frame rows that were tested on.
        base_scores: scores of those rows on the untuned embedding.
        tuned_scores: scores of those rows on the embedding in service.
    """

    rows: dict[str, int]
    sampled: bool
    base: dict[str, float]
    tuned: dict[str, float]
    test: AucTest
    test_rows: NDArray[np.int64]
    base_scores: NDArray[np.float64]
    tuned_scores: NDArray[np.float64]


@dataclass(frozen=True)
class ZeroLabelRanking:
    """The test rows ranked by the texts of the scenario's answers.

    Args:
        auc: AUC with DeLong's interval.
        test_rows: frame rows that were ranked.
        scores: scores of those rows; they rank, and are not probabilities.
    """

    auc: Interval
    test_rows: NDArray[np.int64]
    scores: NDArray[np.float64]


def choose_rows(
    part: NDArray[np.int8], has_vector: NDArray[np.bool_], most: Mapping[str, int]
) -> NDArray[np.int64]:
    """The rows to compare on, ascending: all, or a random choice of a part that has too many.

    Args:
        part: index into SPLITS, (rows,).
        has_vector: whether a row has a vector, (rows,).
        most: largest number of rows by part.
    """
    random, chosen = np.random.default_rng(7), []
    for index, name in enumerate(SPLITS):
        rows = np.flatnonzero((part == index) & has_vector)
        chosen.append(rows if len(rows) <= most[name] else random.choice(rows, most[name], replace=False))
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def tuning_gain(rows: ProbedRows, available: int) -> TuningGain:
    """Fit both probes on the training rows, choose their strength on the validation rows, test them.

    Args:
        rows: rows with both embeddings.
        available: number of rows of the frame that have a vector.

    Raises:
        LabelsInvalid: a part holds one class.
    """
    test, labels = rows.of("test"), rows.labels
    base, tuned = (_probe(rows, vectors) for vectors in (rows.base, rows.tuned))
    return TuningGain(
        rows={part: int(rows.of(part).sum()) for part in SPLITS},
        sampled=len(labels) < available,
        base=figures(labels[test], base),
        tuned=figures(labels[test], tuned),
        test=compare_auc(labels[test], tuned, base),
        test_rows=rows.frame_rows[test],
        base_scores=base,
        tuned_scores=tuned,
    )


def _probe(rows: ProbedRows, vectors: Vectors) -> NDArray[np.float64]:
    from threadpoolctl import threadpool_limits

    train, valid, test = (rows.of(part) for part in SPLITS)
    # Newton's products are small: on many busy cores they take ten times as long.
    with threadpool_limits(1, user_api="blas"):
        fitted = fit_probe(ProbeRows(vectors[train], rows.labels[train], vectors[valid], rows.labels[valid]))
        return fitted.predict(vectors[test])


def zero_label_ranking(
    loaded: LoadedModel, workspace: Workspace, scenario: str, vocabulary: Mapping[str, int], rows: ProbedRows
) -> ZeroLabelRanking | None:
    """Rank the test rows without labels; None where the scenario's answers have no text.

    Args:
        loaded: the model that embedded the users.
        workspace: gives the scenario's answers.
        scenario: name of the scenario.
        vocabulary: words of the log with their frequency.
        rows: rows with untuned vectors; only these share a space with texts.
    """
    test = rows.of("test")
    try:
        scorer = read_answers(loaded, workspace, scenario, vocabulary)
        scores = scorer.score(rows.base[test]).astype(np.float64)
        return ZeroLabelRanking(auc_interval(rows.labels[test], scores), rows.frame_rows[test], scores)
    except InputError:
        # No answers in words, or too few rows of a label for an interval.
        return None
