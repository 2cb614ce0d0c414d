"""A linear probe: how much of the answer a straight line finds in the features.

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
        strength: the inverse regularisation C that did best on the validation rows.
        valid_auc: its area there.
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


def fit_probe(
    rows: ProbeRows, scale: Literal["standard", "quantile"] = "standard", seed: int = 7
) -> LinearProbe:
    """Logistic regression on scaled features, its strength chosen on the validation rows.

    Missing values take the training mean, and a column says that they were missing.

    Args:
        rows: training and validation rows; the test rows are never seen here.
        scale: `quantile` maps each feature to a normal one, which heavy-tailed counts and sums want.
        seed: of the quantile sample.

    Raises:
        LabelsInvalid: training or validation rows hold one class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    def fitted(strength: float) -> LogisticRegression:
        # Far more rows than columns: Newton's steps are few and cheap.
        model = LogisticRegression(C=strength, solver="newton-cholesky", max_iter=100)
        return model.fit(train, rows.train_labels)

    # The areas of constant scores name a missing class before scikit-learn words it its own way.
    roc_auc(rows.train_labels, np.zeros(len(rows.train_labels)))
    prepare = make_pipeline(*_steps(scale, seed, len(rows.train)))
    train = prepare.fit_transform(rows.train).astype(np.float64)
    valid = prepare.transform(rows.valid)
    models = [fitted(strength) for strength in STRENGTHS]
    aucs = [roc_auc(rows.valid_labels, model.decision_function(valid)) for model in models]
    best = int(np.argmax(aucs))
    return LinearProbe(STRENGTHS[best], aucs[best], make_pipeline(prepare, models[best]))


def _steps(scale: str, seed: int, rows: int) -> list[Any]:
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import QuantileTransformer, StandardScaler

    impute = SimpleImputer(strategy="mean", add_indicator=True, keep_empty_features=True)
    if scale == "standard":
        return [impute, StandardScaler()]
    quantiles = QuantileTransformer(
        n_quantiles=min(200, rows), output_distribution="normal", subsample=50_000, random_state=seed
    )
    return [impute, quantiles, StandardScaler()]
