"""The linear probe: what a straight line can read from vectors."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qanchor.metrics import roc_auc

STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class LinearProbe:
    """Standardisation and logistic regression, its strength chosen on a validation part.

    Args:
        pipeline: scikit-learn's.
        strength: C of the logistic regression.
        valid_auc: AUC on the validation part.
    """

    pipeline: Any
    strength: float
    valid_auc: float

    def scores(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """Log odds, [rows]."""
        result: NDArray[np.float64] = self.pipeline.decision_function(vectors)
        return result


def fit_probe(
    train: NDArray[np.floating],
    train_labels: NDArray[np.int64],
    valid: NDArray[np.floating],
    valid_labels: NDArray[np.int64],
) -> LinearProbe:
    """The probe whose strength does best on the validation part; fitted on the train part alone.

    Args:
        train: [rows, dim].
        train_labels: 0 or 1, [rows].
        valid: [rows, dim].
        valid_labels: 0 or 1, [rows].
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    best: LinearProbe | None = None
    for strength in STRENGTHS:
        # Far more rows than columns: Newton's steps are few and cheap.
        logistic = LogisticRegression(C=strength, solver="newton-cholesky", max_iter=100)
        pipeline = make_pipeline(StandardScaler(), logistic)
        pipeline.fit(train, train_labels)
        auc = float(roc_auc(valid_labels, pipeline.decision_function(valid)))
        if best is None or auc > best.valid_auc:
            best = LinearProbe(pipeline, strength, auc)
    if best is None:
        raise ValueError("no strengths to choose from")
    return best
