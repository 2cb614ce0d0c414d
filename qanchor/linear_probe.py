"""A linear probe: logistic regression on the features, as a measure of what they hold.

Source: arXiv 2602.14492, section 4.1: embeddings are compared by logistic regression on frozen vectors.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qanchor.metrics import roc_auc

STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe.

    Args:
        strength: inverse regularisation C that did best on the validation rows.
        valid_auc: area under the ROC curve on the validation rows.
        pipeline: scaler and logistic regression, as scikit-learn objects.
    """

    strength: float
    valid_auc: float
    pipeline: Any

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Chance of label 1, (rows,).

        Args:
            features: (rows, features); NaN is missing.
        """
        result: NDArray[np.float64] = self.pipeline.predict_proba(features)[:, 1]
        return result


@dataclass(frozen=True)
class ProbeRows:
    """Rows to fit on and rows to choose C with.

    Args:
        train: (rows, features); NaN is missing.
        train_labels: 0 or 1.
        valid: (rows, features).
        valid_labels: 0 or 1.
    """

    train: Floats
    train_labels: NDArray[np.int64]
    valid: Floats
    valid_labels: NDArray[np.int64]


def fit_probe(rows: ProbeRows, scale: Literal["standard", "quantile"] = "standard") -> LinearProbe:
    """Logistic regression on scaled features, its strength chosen on the validation rows.

    Missing values take the training mean, and an indicator column marks them.

    Args:
        rows: training and validation rows, no test rows.
        scale: scaling; `quantile` maps each feature to a normal distribution, for heavy-tailed counts and
            sums.

    Raises:
        LabelsInvalid: training or validation rows hold one class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    def fitted(strength: float) -> LogisticRegression:
        # Far more rows than columns: Newton's steps are few and cheap.
        model = LogisticRegression(C=strength, solver="newton-cholesky", max_iter=100)
        return model.fit(train, rows.train_labels)

    # For the error that names a missing class; scikit-learn's is less clear.
    roc_auc(rows.train_labels, np.zeros(len(rows.train_labels)))
    prepare = make_pipeline(*_steps(scale, len(rows.train)))
    train = prepare.fit_transform(rows.train).astype(np.float64)
    valid = prepare.transform(rows.valid)
    models = [fitted(strength) for strength in STRENGTHS]
    aucs = [roc_auc(rows.valid_labels, model.decision_function(valid)) for model in models]
    best = int(np.argmax(aucs))
    return LinearProbe(STRENGTHS[best], aucs[best], make_pipeline(prepare, models[best]))


def _steps(scale: str, rows: int) -> list[Any]:
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import QuantileTransformer, StandardScaler

    impute = SimpleImputer(strategy="mean", add_indicator=True, keep_empty_features=True)
    if scale == "standard":
        return [impute, StandardScaler()]
    quantiles = QuantileTransformer(
        n_quantiles=min(200, rows), output_distribution="normal", subsample=50_000, random_state=7
    )
    return [impute, quantiles, StandardScaler()]
