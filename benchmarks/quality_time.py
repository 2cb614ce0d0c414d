"""Out of time: heads fitted on online_retail's users at 2011-06-11, evaluated on its labels of 2011-09-09.

The labels of the earlier day come from the events up to the later one, which pre-training read as well.
"""

import json
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality_cache import ResultCache, code_hash
from benchmarks.quality_data import FOLDS, DataSet
from benchmarks.quality_figures import Figures, figures_of
from benchmarks.quality_heads import LINEAR, TREES, Block, fit_outside
from benchmarks.quality_model import described
from qanchor.events.history import EventArrays, Int64, slice_histories
from qanchor.model.checkpoint import LoadedModel
from qanchor.model.tabular import tabular_features
from qanchor.progress import Progress
from qanchor.times import DAY_US
from qanchor.training.prefixes import PrefixBank

_BACK_DAYS = 90
_READS = tuple(f"benchmarks/quality_{name}.py" for name in ("data", "figures", "heads", "time"))
TREES_ALONE = "LightGBM, point-in-time aggregates"
AGGREGATES = "logistic, point-in-time aggregates"
PROBE = "linear probe, base"
FUSED = "logistic, both"


def out_of_time(
    data: DataSet, loaded: LoadedModel, cache: ResultCache, progress: Progress
) -> dict[str, dict[str, Figures]]:
    """AUC and KS at the labels' cut-off of heads fitted 90 days earlier, by row and task.

    Args:
        data: data set online_retail.
        loaded: model of the data set.
        cache: cache of earlier results.
        progress: bar that advances with every history.
    """

    def make(path: Path) -> None:
        figures = _figures(data, loaded, progress)
        path.write_text(
            json.dumps({row: {n: astuple(f) for n, f in some.items()} for row, some in figures.items()})
        )

    decided_by = {**described(data), "model": loaded.content_hash, "code": code_hash("qanchor", *_READS)}
    stored = json.loads(
        cache.keep(f"{data.name}: out of time", "out_of_time.json", decided_by, make).read_text()
    )
    return {row: {name: Figures(*pair) for name, pair in some.items()} for row, some in stored.items()}


def _figures(data: DataSet, loaded: LoadedModel, progress: Progress) -> dict[str, dict[str, Figures]]:
    later = int(next(iter(data.tasks.values())).cutoffs[0])
    earlier, users = later - _BACK_DAYS * DAY_US, np.arange(len(data.arrays.users))
    # Every user at both moments: request `user` is the earlier one, `users + user` the later one.
    requests = np.tile(users, 2), np.repeat([earlier, later], len(users))
    aggregates = _aggregates(data, loaded, *requests)
    bank = PrefixBank(loaded.model, loaded.tokenizer, loaded.normaliser, data.workspace)
    bank.fill(data.arrays, *requests, progress)
    figures: dict[str, dict[str, Figures]] = {}
    for name, task in data.tasks.items():
        rows, labels = earlier_labels(name, data, earlier)
        chosen = np.concatenate([rows, len(users) + task.rows])
        query = data.workspace.scenario(name).query
        question = loaded.tokenizer.encode_queries([query], loaded.config.max_question_tokens)[0]
        written = Block(aggregates[chosen], "standard")
        base = Block(bank.vectors(question, None, chosen), "standard")
        train = np.arange(len(chosen)) < len(rows)
        every = np.concatenate([labels, task.labels])
        folds = np.random.default_rng(0).integers(0, FOLDS, len(every))
        for row, among, blocks in (
            (TREES_ALONE, TREES, [written]),
            (AGGREGATES, LINEAR, [written]),
            (PROBE, LINEAR, [base]),
            (FUSED, LINEAR, [written, base]),
        ):
            scores = fit_outside(blocks, every, train, folds, among)
            figures.setdefault(row, {})[name] = figures_of(task, scores)
    return figures


def earlier_labels(name: str, data: DataSet, cutoff: int) -> tuple[Int64, Int64]:
    """Users with a label at a cut-off, and the labels, as the README defines them.

    Args:
        name: name of the task.
        data: data set online_retail.
        cutoff: cut-off, microseconds UTC; at least 90 days before the last event.

    Returns:
        User rows and labels, int64 [rows] each.
    """
    users = np.arange(len(data.arrays.users))
    seen = _events(data, users, cutoff - 100_000 * DAY_US, cutoff).sum(axis=1) > 0
    bought_before = _events(data, users, cutoff - _BACK_DAYS * DAY_US, cutoff)[:, 0] > 0
    soon, later = (_events(data, users, cutoff, cutoff + days * DAY_US) for days in (30, 90))
    labels: Mapping[str, NDArray[np.bool_]] = {
        "mkt_repurchase30": soon[:, 0] > 0,
        "mkt_spend1000_90": _spent(data.arrays, users, data, cutoff) >= 1_000,
        "risk_return90": later[:, 1] > 0,
        "eng_lapse90_active": later[:, 0] == 0,
    }
    labelled = np.flatnonzero(seen & (bought_before if name == "eng_lapse90_active" else True))
    return labelled.astype(np.int64), labels[name][labelled].astype(np.int64)


def _stops(data: DataSet, users: Int64, moment: int) -> Int64:
    return slice_histories(data.arrays, users, np.full(len(users), moment), data.workspace).stop


def _events(data: DataSet, users: Int64, begin: int, end: int) -> Int64:
    """Events of each modality in a span, [users, modalities]."""
    return _stops(data, users, end) - _stops(data, users, begin)


def _spent(arrays: EventArrays, users: Int64, data: DataSet, cutoff: int) -> NDArray[np.float64]:
    purchases = arrays.modalities[0]
    amount = data.workspace.modalities[purchases.name].numbers.index("amount")
    sums = np.concatenate([[0.0], np.cumsum(purchases.numbers[:, amount])])
    end, begin = (_stops(data, users, cutoff + days * DAY_US)[:, 0] for days in (_BACK_DAYS, 0))
    return np.asarray(sums[end] - sums[begin])


def _aggregates(data: DataSet, loaded: LoadedModel, rows: Int64, cutoffs: Int64) -> NDArray[np.float32]:
    slices = slice_histories(data.arrays, rows, cutoffs, data.workspace)
    return tabular_features(data.arrays, slices, loaded.normaliser, loaded.config)
