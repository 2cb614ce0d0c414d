"""How far a scenario's words alone go, without a label: a baseline beside what was learnt from labels."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qanchor.audience.zero_label import read_answers
from qanchor.errors import InputError
from qanchor.explain.base_probe import ProbedRows
from qanchor.metrics import Interval, auc_interval
from qanchor.model.checkpoint import LoadedModel
from qanchor.workspace import Workspace


@dataclass(frozen=True)
class WordsAlone:
    """The test rows ranked by the scenario's answers in words.

    Args:
        auc: with DeLong's interval.
        test_rows: places in the frame of the rows that were ranked.
        scores: of those rows; they rank, and are no probabilities.
    """

    auc: Interval
    test_rows: NDArray[np.int64]
    scores: NDArray[np.float64]


def words_alone(
    loaded: LoadedModel, workspace: Workspace, scenario: str, vocabulary: Mapping[str, int], rows: ProbedRows
) -> WordsAlone | None:
    """Rank the test rows by the untuned embedding and the words; None where the scenario has no words.

    Args:
        loaded: the model that reads the users.
        workspace: gives the scenario's answers.
        scenario: its name.
        vocabulary: words of the log with how common they are.
        rows: with untuned vectors, which alone lie in the space of words.
    """
    test = rows.of("test")
    try:
        scorer = read_answers(loaded, workspace, scenario, vocabulary)
        scores = scorer.score(rows.base[test]).astype(np.float64)
        return WordsAlone(auc_interval(rows.labels[test], scores), rows.place[test], scores)
    except InputError:
        # No answers in words, or too few rows of a label for an interval.
        return None
