"""Fitting a LightGBM head, deterministically: early stopping, class imbalance, calibrated probabilities."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from qanchor.errors import InputError
from qanchor.heads.calibrate import Calibration, Choice, calibrate
from qanchor.metrics import roc_auc

if TYPE_CHECKING:
    from lightgbm import Booster

ClassWeight = Literal["root", "balanced", "none"]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FitOptions:
    """Options of fitting a head.

    Args:
        rounds: most trees of a booster.
        patience: number of trees without gain on the validation rows before stopping.
        seed: random seed; the same seed and rows give the same file.
        threads: LightGBM's threads; 0: all cores. Changes nothing but the time.
        class_weight: weight of a row with label 1: `root` of the imbalance, `balanced` by it, or `none`.
        seeds: number of boosters whose scores are averaged, each with another seed.
        search_seconds: seconds of search for better parameters; 0: only two fixed sets are tried.
        calibration: calibration curve; `auto`: the better one.
        monotone: 1 (never falls) or -1 (never rises), by feature name.
    """

    rounds: int = 450
    patience: int = 60
    seed: int = 7
    threads: int = 1
    class_weight: ClassWeight = "root"
    seeds: int = 1
    search_seconds: float = 0.0
    calibration: Choice = "auto"
    monotone: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class FitRows:
    """A matrix with its labels.

    Args:
        features: (rows, features); NaN is missing.
        labels: 0 or 1.
    """

    features: Floats
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class FitTask:
    """Rows and columns to fit a head on.

    Args:
        train: rows to fit on.
        valid: rows that decide when to stop, which parameters to take and how to calibrate.
        names: names of the columns.
        categorical: names of the columns that hold category codes.
    """

    train: FitRows
    valid: FitRows
    names: tuple[str, ...]
    categorical: tuple[str, ...] = ()


@dataclass(frozen=True)
class Boosters:
    """One or several boosters of the same columns, whose raw scores are averaged.

    Args:
        members: instances of lightgbm.Booster, cut at their best round.
    """

    members: tuple["Booster", ...]

    @classmethod
    def from_texts(cls, texts: Sequence[str]) -> "Boosters":
        """Boosters from LightGBM's text form.

        Raises:
            ValueError: a text cannot be read.
        """
        import lightgbm

        try:
            return cls(tuple(lightgbm.Booster(model_str=text) for text in texts))
        except lightgbm.basic.LightGBMError as error:
            raise ValueError(str(error)) from error

    @property
    def texts(self) -> list[str]:
        """Text form of each booster."""
        return [member.model_to_string() for member in self.members]

    @property
    def rounds(self) -> tuple[int, ...]:
        """Number of trees of each booster."""
        return tuple(int(member.num_trees()) for member in self.members)

    def raw(self, features: Floats, threads: int = 0) -> NDArray[np.float64]:
        """Mean raw score, (rows,).

        Args:
            features: (rows, features); NaN is missing.
            threads: LightGBM's threads; 0: as many as the process may use.
        """
        scores = [member.predict(features, raw_score=True, num_threads=threads) for member in self.members]
        return np.asarray(np.mean(scores, axis=0), dtype=np.float64)

    def contributions(self, features: Floats) -> NDArray[np.float64]:
        """SHAP values of each feature on the raw score, (rows, features + 1).

        The last column is the base; a row sums to its raw score.

        Args:
            features: (rows, features); NaN is missing.
        """
        parts = [member.predict(features, pred_contrib=True) for member in self.members]
        return np.asarray(np.mean(parts, axis=0), dtype=np.float64)


@dataclass(frozen=True)
class FittedHead:
    """Boosters with their calibration.

    Args:
        boosters: boosters whose raw scores are averaged.
        calibration: calibration of that mean, from the validation rows.
        valid_auc: area under the ROC curve on the validation rows.
        parameters: LightGBM's parameters; each booster adds its number to the seed.
        tried: number of parameter sets that were fitted to choose these.
    """

    boosters: Boosters
    calibration: Calibration
    valid_auc: float
    parameters: dict[str, Any]
    tried: int

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Chance of label 1, (rows,).

        Args:
            features: (rows, features); NaN is missing.
        """
        return self.calibration.probabilities(self.boosters.raw(features))


def fit_head(task: FitTask, options: FitOptions) -> FittedHead:
    """A gradient-boosted head with the parameters that do best on the validation rows.

    Candidates are one set with small and one with large trees, then random ones until the search time is
    over. Rows with label 1 weigh more where they are rare; the calibration corrects the probabilities for it.

    Args:
        task: rows and columns.
        options: rounds, patience, seeds, search, weights, constraints.

    Raises:
        LabelsInvalid: training or validation rows hold one class.
        InputError: no feature varies over the training rows.
    """
    for rows in (task.train, task.valid):
        roc_auc(rows.labels, np.zeros(len(rows.labels)))
    if not any_varies(task.train.features):
        raise InputError(
            f"none of {task.train.features.shape[1]} features varies over {len(task.train.labels):,} "
            "training rows",
            "Run `qanchor-cli backfill` at the labels' times, or take other --features.",
        )
    best_area, tried = -1.0, 0
    chosen: dict[str, Any] = {}
    best = None
    for parameters in _candidates(task, options):
        booster = _fit_one(task, parameters, options)
        area = roc_auc(task.valid.labels, booster.predict(task.valid.features, raw_score=True))
        tried += 1
        if area > best_area:
            best_area, chosen, best = area, parameters, booster
    return _finished(task, options, chosen, best, tried)


def refit_head(task: FitTask, options: FitOptions, parameters: dict[str, Any]) -> FittedHead:
    """The head that `fit_head` made when it chose these parameters.

    Args:
        task: rows and columns of that fit.
        options: options of that fit.
        parameters: parameters that it chose.
    """
    return _finished(task, options, parameters, _fit_one(task, parameters, options), 1)


def _finished(
    task: FitTask, options: FitOptions, parameters: dict[str, Any], first: "Booster", tried: int
) -> FittedHead:
    others = [
        _fit_one(task, parameters | {"seed": parameters["seed"] + number}, options)
        for number in range(1, options.seeds)
    ]
    boosters = Boosters((first, *others))
    raw = boosters.raw(task.valid.features)
    calibration = calibrate(raw, task.valid.labels, options.calibration, options.seed)
    return FittedHead(boosters, calibration, roc_auc(task.valid.labels, raw), parameters, tried)


def _candidates(task: FitTask, options: FitOptions) -> Iterator[dict[str, Any]]:
    began = time.monotonic()
    base = _parameters(task, options)
    yield base | {"num_leaves": 6}
    yield base | {"num_leaves": 24}
    random = np.random.default_rng(options.seed)
    while time.monotonic() - began < options.search_seconds:
        yield base | {
            "num_leaves": int(np.exp(random.uniform(np.log(4), np.log(64)))),
            "learning_rate": float(np.exp(random.uniform(np.log(0.015), np.log(0.1)))),
            "min_data_in_leaf": int(base["min_data_in_leaf"] * np.exp(random.uniform(-1.2, 1.2))) + 1,
            "feature_fraction": float(random.uniform(0.15, 1.0)),
            "bagging_fraction": float(random.uniform(0.5, 1.0)),
            "lambda_l2": float(np.exp(random.uniform(np.log(0.5), np.log(50)))),
        }


def _parameters(task: FitTask, options: FitOptions) -> dict[str, Any]:
    rows, ones = len(task.train.labels), int(task.train.labels.sum())
    weights = {"root": float(np.sqrt((rows - ones) / ones)), "balanced": (rows - ones) / ones, "none": 1.0}
    parameters = {
        "objective": "binary",
        "metric": "auc",
        "learning_rate": 0.03,
        "min_data_in_leaf": int(np.clip(rows // 100, 3, 100)),
        "feature_fraction": 0.4,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 5.0,
        "max_bin": 127,
        "min_data_per_group": 20,
        "scale_pos_weight": weights[options.class_weight],
        "deterministic": True,
        "force_row_wise": True,
        "seed": options.seed,
        "verbosity": -1,
    }
    constraints = [int(options.monotone.get(name, 0)) for name in task.names]
    return parameters | ({"monotone_constraints": constraints} if any(constraints) else {})


def _fit_one(task: FitTask, parameters: dict[str, Any], options: FitOptions) -> "Booster":
    import lightgbm

    data = lightgbm.Dataset(
        task.train.features,
        task.train.labels,
        feature_name=list(task.names),
        categorical_feature=list(task.categorical),
        free_raw_data=True,
    )
    booster = lightgbm.train(
        parameters | {"num_threads": options.threads},
        data,
        num_boost_round=options.rounds,
        valid_sets=[lightgbm.Dataset(task.valid.features, task.valid.labels, reference=data)],
        callbacks=[lightgbm.early_stopping(options.patience, verbose=False)],
    )
    # Through the text form, so that this booster scores like the one read from the file.
    return lightgbm.Booster(model_str=booster.model_to_string(num_iteration=booster.best_iteration))


def any_varies(features: Floats) -> bool:
    """Whether any column of a matrix has two values, or both values and gaps."""
    return not all(_is_constant(values) for values in features.T)


def constant_columns(features: Floats, names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the columns that hold one value, or none at all."""
    return tuple(name for name, values in zip(names, features.T, strict=True) if _is_constant(values))


def _is_constant(values: Floats) -> bool:
    finite = values[np.isfinite(values)]
    return not len(finite) or (len(finite) == len(values) and bool(finite.min() == finite.max()))
