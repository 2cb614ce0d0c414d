"""Heads of the quality benchmark: linear probe, logistic regression, LightGBM, chosen without the test fold.

Strength, and trees or not, are chosen for each outer fold on the other folds alone: every candidate is fitted
on three of them and evaluated on the fourth, four times (once where a fold has thousands of rows); the one
with the best mean AUC is fitted on all four. Every set of features, the reference included, is treated alike.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality_cache import ResultCache, code_hash
from benchmarks.quality_data import FOLDS
from qanchor.metrics import roc_auc

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Scale = Literal["standard", "quantile"]

STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_MANY_ROWS = 10_000
_TREE_PARAMETERS = {
    "n_estimators": 300,
    "learning_rate": 0.03,
    "num_leaves": 15,
    "min_child_samples": 40,
    "colsample_bytree": 0.4,
    "subsample": 0.8,
    "subsample_freq": 1,
    "reg_lambda": 1.0,
    "random_state": 0,
    "verbose": -1,
}


@dataclass(frozen=True)
class Block:
    """Features with one kind of scaling.

    Args:
        values: [rows, features], NaN where missing.
        scale: scaling; `quantile` maps each column to a normal distribution, for heavy tails.
    """

    values: NDArray[Any]
    scale: Scale


# The blocks for one outer fold: a tuned embedding differs from one to the next.
FeaturesOfFold = Callable[[int], Sequence[Block]]


@dataclass(frozen=True)
class Scored:
    """A head's scores.

    Args:
        scores: [rows], each by the head that was fitted without the row's fold.
        chosen: name of the chosen head by fold.
    """

    scores: Floats
    chosen: tuple[str, ...]


@dataclass(frozen=True)
class Candidates:
    """Heads to choose from.

    Args:
        strengths: inverse regularisation of the logistic regressions.
        trees: whether LightGBM is a candidate.
    """

    strengths: tuple[float, ...] = STRENGTHS
    trees: bool = True


LINEAR = Candidates(trees=False)
TREES = Candidates(strengths=())
BEST = Candidates()


@dataclass(frozen=True)
class CacheStage:
    """A cache, and the stage of its account.

    Args:
        cache: cache of earlier scores, by the content of all inputs.
        stage: name of the stage.
    """

    cache: ResultCache
    stage: str


def score_head(
    features: FeaturesOfFold, labels: Ints, folds: Ints, among: Candidates, stage: CacheStage
) -> Scored:
    """Scores of every fold by the head that is chosen and fitted on the others.

    Args:
        features: blocks of all rows, by outer fold.
        labels: 0 or 1, (rows,).
        folds: 0 to 4, (rows,).
        among: heads to choose from.
        stage: cache of earlier scores.
    """
    digest = hashlib.sha256()
    for outer in range(FOLDS):
        for block in features(outer):
            digest.update(block.scale.encode() + np.ascontiguousarray(block.values).tobytes())
    digest.update(labels.tobytes() + folds.tobytes())

    def make(path: Path) -> None:
        scored = _scored(features, labels, folds, among)
        np.savez(path, scores=scored.scores, chosen=np.array(scored.chosen))

    decided_by = {"content": digest.hexdigest(), "among": str(among), "code": _code()}
    stored = np.load(stage.cache.keep(stage.stage, "scores.npz", decided_by, make))
    return Scored(stored["scores"], tuple(stored["chosen"].tolist()))


def _code() -> str:
    return code_hash(
        *("benchmarks/quality_heads.py", "qanchor/metrics"), libraries=("scikit-learn", "lightgbm", "numpy")
    )


def _scored(features: FeaturesOfFold, labels: Ints, folds: Ints, among: Candidates) -> Scored:
    scores, chosen = np.zeros(len(labels)), []
    for outer in range(FOLDS):
        candidates = _candidates(features(outer), labels, among)
        name = next(iter(candidates))
        if len(candidates) > 1:
            name = _choose(candidates, labels, folds, outer)
        scores[folds == outer] = candidates[name](folds != outer)(folds == outer)
        chosen.append(name)
    return Scored(scores, tuple(chosen))


def fit_outside(
    blocks: Sequence[Block], labels: Ints, train: NDArray[np.bool_], folds: Ints, among: Candidates
) -> Floats:
    """Scores of the rows outside `train`, by the head chosen and fitted on the rows of `train`.

    Args:
        blocks: features of all rows.
        labels: 0 or 1, (rows,); those outside `train` are not read.
        train: rows to choose and fit on, (rows,).
        folds: parts of the training rows for the choice, 0 to 4, (rows,).
        among: heads to choose from.
    """
    candidates = _candidates(blocks, labels, among)
    areas = dict.fromkeys(candidates, 0.0)
    for inner in range(FOLDS):
        fitted, valid = train & (folds != inner), train & (folds == inner)
        for name, fit in candidates.items():
            areas[name] += roc_auc(labels[valid], fit(fitted)(valid))
    return candidates[max(areas, key=lambda name: areas[name])](train)(~train)


# Fits on some rows and returns the function that scores others.
_Fit = Callable[[NDArray[np.bool_]], Callable[[NDArray[np.bool_]], Floats]]


def _candidates(blocks: Sequence[Block], labels: Ints, among: Candidates) -> dict[str, _Fit]:
    prepared = _Prepared(blocks)
    heads = {f"linear {strength:g}": _linear(prepared, labels, strength) for strength in among.strengths}
    return heads | ({"trees": _trees(blocks, labels)} if among.trees else {})


def _choose(candidates: Mapping[str, _Fit], labels: Ints, folds: Ints, outer: int) -> str:
    """The candidate with the best AUC on inner folds; the outer fold is not read."""
    areas = dict.fromkeys(candidates, 0.0)
    splits = 1 if len(labels) > _MANY_ROWS else FOLDS - 1
    for step in range(1, splits + 1):
        inner = (outer + step) % FOLDS
        train, valid = (folds != outer) & (folds != inner), folds == inner
        for name, fit in candidates.items():
            areas[name] += roc_auc(labels[valid], fit(train)(valid))
    return max(areas, key=lambda name: areas[name])


class _Prepared:
    """Scaled matrices, kept for the candidates that share them."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._blocks = blocks
        self._key = b""
        self._matrix: Floats = np.empty((0, 0))

    def fitted(self, train: NDArray[np.bool_]) -> Floats:
        """All rows, scaled by the training rows, [rows, features]."""
        key = train.tobytes()
        if key != self._key:
            parts = [
                _scaler(block).fit(block.values[train]).transform(block.values) for block in self._blocks
            ]
            self._key, self._matrix = key, np.concatenate(parts, axis=1).astype(np.float64)
        return self._matrix


def _scaler(block: Block) -> Any:
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import QuantileTransformer, StandardScaler

    steps: list[Any] = [SimpleImputer(keep_empty_features=True)]
    if block.scale == "quantile":
        steps.append(QuantileTransformer(n_quantiles=200, output_distribution="normal", random_state=0))
    return make_pipeline(*steps, StandardScaler())


def _linear(prepared: _Prepared, labels: Ints, strength: float) -> _Fit:
    from sklearn.linear_model import LogisticRegression

    def fit(train: NDArray[np.bool_]) -> Callable[[NDArray[np.bool_]], Floats]:
        matrix = prepared.fitted(train)
        model = LogisticRegression(C=strength, solver="newton-cholesky").fit(matrix[train], labels[train])

        def score(rows: NDArray[np.bool_]) -> Floats:
            scores: Floats = model.decision_function(matrix[rows])
            return scores

        return score

    return fit


def _trees(blocks: Sequence[Block], labels: Ints) -> _Fit:
    from lightgbm import LGBMClassifier

    matrix = np.concatenate([block.values for block in blocks], axis=1)

    def fit(train: NDArray[np.bool_]) -> Callable[[NDArray[np.bool_]], Floats]:
        model = LGBMClassifier(**_TREE_PARAMETERS, n_jobs=1).fit(matrix[train], labels[train])

        def score(rows: NDArray[np.bool_]) -> Floats:
            scores: Floats = np.asarray(model.predict_proba(matrix[rows])[:, 1], dtype=np.float64)
            return scores

        return score

    return fit
