"""Fitting a LightGBM head: early stopping, class imbalance, calibrated probabilities, the same every time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qanchor.errors import InputError
from qanchor.heads.frame import any_varies
from qanchor.metrics import log_loss, roc_auc

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FitOptions:
    """How long and how carefully to fit.

    Args:
        rounds: most trees.
        patience: trees without gain on the validation rows before stopping.
        seed: the same seed and rows give the same file.
        threads: of LightGBM; 0: all cores.
    """

    rounds: int = 600
    patience: int = 60
    seed: int = 7
    threads: int = 1


@dataclass(frozen=True)
class Calibration:
    """Maps a raw score to a probability: 1 / (1 + exp(-(slope * raw + intercept))).

    Args:
        slope: above 0, so that the order stays.
        intercept: undoes the weight that rare positives had.
    """

    slope: float
    intercept: float

    def probabilities(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Chance of label 1, (rows,)."""
        logits = np.clip(self.slope * raw + self.intercept, -60, 60)
        result: NDArray[np.float64] = 1 / (1 + np.exp(-logits))
        return result


@dataclass(frozen=True)
class FittedHead:
    """A booster with its calibration.

    Args:
        booster: lightgbm.Booster, cut at its best round.
        calibration: of its raw scores, from the validation rows.
        rounds: trees.
        valid_auc: area on the validation rows.
        parameters: what it was fitted with.
    """

    booster: Any
    calibration: Calibration
    rounds: int
    valid_auc: float
    parameters: dict[str, Any]

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Chance of label 1, (rows,).

        Args:
            features: (rows, features); NaN is missing.
        """
        return self.calibration.probabilities(self.booster.predict(features, raw_score=True))


@dataclass(frozen=True)
class FitRows:
    """A matrix with its labels.

    Args:
        features: (rows, features); NaN is missing.
        labels: 0 or 1.
    """

    features: Floats
    labels: NDArray[np.int64]


def fit_head(
    train: FitRows, valid: FitRows, names: tuple[str, ...], categorical: list[str], options: FitOptions
) -> FittedHead:
    """A gradient-boosted head, the better of a cautious and a freer one on the validation rows.

    Rare positives weigh more, by the root of the imbalance; the calibration takes that out of the
    probabilities again.

    Args:
        train: rows to fit on.
        valid: rows that stop, choose and calibrate.
        names: of the columns.
        categorical: names of columns that hold category codes.
        options: rounds, patience, seed, threads.

    Raises:
        LabelsInvalid: training or validation rows hold one class.
        InputError: no feature varies over the training rows.
    """
    for rows in (train, valid):
        roc_auc(rows.labels, np.zeros(len(rows.labels)))
    if not any_varies(train.features):
        raise InputError(
            f"none of {train.features.shape[1]} features varies over {len(train.labels):,} training rows",
            "Run `qanchor-cli backfill` at the labels' times, or take other --features.",
        )
    candidates = [
        _fit_one(train, valid, (names, categorical), _parameters(train.labels, leaves, options), options)
        for leaves in (6, 24)
    ]
    return max(candidates, key=lambda candidate: candidate.valid_auc)


def _parameters(labels: NDArray[np.int64], leaves: int, options: FitOptions) -> dict[str, Any]:
    rows, ones = len(labels), int(labels.sum())
    return {
        "objective": "binary",
        "metric": "auc",
        "learning_rate": 0.03,
        "num_leaves": leaves,
        "min_data_in_leaf": int(np.clip(rows // 100, 3, 100)),
        "feature_fraction": 0.4,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 5.0,
        "max_bin": 127,
        "min_data_per_group": 20,
        "scale_pos_weight": float(np.sqrt((rows - ones) / ones)),
        "deterministic": True,
        "force_row_wise": True,
        "seed": options.seed,
        "num_threads": options.threads,
        "verbosity": -1,
    }


def _fit_one(
    train: FitRows,
    valid: FitRows,
    columns: tuple[tuple[str, ...], list[str]],
    parameters: dict[str, Any],
    options: FitOptions,
) -> FittedHead:
    import lightgbm

    names, categorical = columns
    data = lightgbm.Dataset(
        train.features,
        train.labels,
        feature_name=list(names),
        categorical_feature=categorical,
        free_raw_data=True,
    )
    booster = lightgbm.train(
        parameters,
        data,
        num_boost_round=options.rounds,
        valid_sets=[lightgbm.Dataset(valid.features, valid.labels, reference=data)],
        callbacks=[lightgbm.early_stopping(options.patience, verbose=False)],
    )
    # Through the text form, so that what is scored now is what the file will score.
    booster = lightgbm.Booster(model_str=booster.model_to_string(num_iteration=booster.best_iteration))
    raw = booster.predict(valid.features, raw_score=True)
    return FittedHead(
        booster, calibrate(raw, valid.labels), booster.num_trees(), roc_auc(valid.labels, raw), parameters
    )


def calibrate(raw: NDArray[np.float64], labels: NDArray[np.int64]) -> Calibration:
    """The logistic curve through the validation rows, by Newton's method (Platt scaling).

    A curve that would turn the order round, or fits worse than the raw score does, is left out: then
    only the intercept moves, so that the mean probability is the observed rate.

    Raises:
        LabelsInvalid: only one class is present.
    """
    # Platt's targets keep the curve finite where the classes do not overlap.
    ones = int(labels.sum())
    targets = np.where(labels == 1, (ones + 1) / (ones + 2), 1 / (len(labels) - ones + 2))
    design = np.stack([raw, np.ones(len(raw))], axis=1)
    weights = np.array([1.0, 0.0])
    for _ in range(50):
        chances = 1 / (1 + np.exp(-np.clip(design @ weights, -60, 60)))
        spread = np.maximum(chances * (1 - chances), 1e-9)
        hessian = (design * spread[:, None]).T @ design + 1e-6 * np.eye(2)
        step = np.linalg.solve(hessian, design.T @ (chances - targets))
        weights = weights - np.clip(step, -5, 5)
        if np.abs(step).max() < 1e-9:
            break
    fitted = Calibration(float(weights[0]), float(weights[1]))
    level = _level(raw, ones / len(raw))
    if fitted.slope <= 1e-3:
        return level
    better = log_loss(labels, fitted.probabilities(raw)) <= log_loss(labels, level.probabilities(raw))
    return fitted if better else level


def _level(raw: NDArray[np.float64], rate: float) -> Calibration:
    """Only an intercept, by bisection: the mean probability is `rate`."""
    low, high = -60.0, 60.0
    for _ in range(80):
        middle = (low + high) / 2
        if Calibration(1.0, middle).probabilities(raw).mean() < rate:
            low = middle
        else:
            high = middle
    return Calibration(1.0, (low + high) / 2)
