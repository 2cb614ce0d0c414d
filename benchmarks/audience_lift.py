"""Lift of lookalike lists over chance, on label sets outside all training of the model.

    python -m benchmarks.audience_lift DEMO/work [--truth truth.parquet] [--quick] [--json FILE]

DEMO/work is the workspace of a finished `qanchor-cli demo`, simulated or real. For every scenario the test
rows are a population: half of those with label 1 are seeds (200 at most); the others are the targets among
all rows that are no seeds. Labels select nothing: `auto` chooses the method from the seeds alone. Baselines:
cosine to the centroid of raw activity aggregates, the same after logarithms and standardising, the plain
cosine centroid of the embeddings, and, with --truth, the list by the true probabilities (`most possible`).
Means over random choices of seeds; the interval is that of this mean and ignores other test users. The last
columns are an audience in words, the scenario's `positive` answer without any seed, against all rows.
"""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.harness import Bar, arguments, finish, table
from qanchor.site import Site

SHARE, MOST_SEEDS = 0.05, 200
LEAST_LIFT = 3.0
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TestRows:
    """The test rows of a scenario.

    Args:
        vectors: unit vectors, float32 (rows, width).
        aggregates: raw activity aggregates, (rows, columns).
        labels: 0 or 1, (rows,).
        truth: true probability of label 1, (rows,), or None.
    """

    vectors: NDArray[np.float32]
    aggregates: Floats
    labels: NDArray[np.int64]
    truth: Floats | None


def main() -> None:
    """Measure every scenario that has vectors and labels, and print the table."""
    options = _options()
    from qanchor.threads import limit_threads

    limit_threads(0)
    from qanchor.home import Home
    from qanchor.workspace import load_workspace

    home, workspace = Home(options.work / ".qanchor"), load_workspace(options.work / "feature_repo")
    site = Site.at(workspace, home)
    truth = pq.read_table(options.truth) if options.truth else None
    rows: list[dict[str, Any]] = []
    figures: dict[str, Any] = {}
    bars: list[Bar] = []
    for scenario, spec in workspace.scenarios.items():
        if not (home.labels / f"{scenario}.parquet").exists():
            continue
        test = read_rows(site, scenario, truth)
        words = word_scores(site, scenario, test)
        row = {"scenario": scenario, **measure(test, words, 4 if options.quick else options.repeats)}
        rows.append(row)
        figures |= {f"{scenario} {name}": value for name, value in row.items() if name != "scenario"}
        if truth is not None and spec.domain == "marketing":
            bars.append(Bar(f"{scenario}: lift at 5%", row["lift"], LEAST_LIFT, "higher"))
            bars.append(
                Bar(f"{scenario}: above raw aggregates", row["lift"] - row["raw aggregates"], 0.0, "higher")
            )
    print(table(rows))
    finish(figures, bars, options.json)


def _options() -> Namespace:
    parser = arguments(__doc__ or "")
    parser.add_argument("work", type=Path, help="the workspace of a finished demo")
    parser.add_argument("--truth", type=Path, help="truth.parquet of the simulated world")
    parser.add_argument("--repeats", type=int, default=20, help="random choices of seeds")
    return parser.parse_args()


def read_rows(site: Site, scenario: str, truth: pa.Table | None) -> TestRows:
    """The test rows of a scenario, with vectors and aggregates as of each row's moment."""
    from qanchor.events.labels import read_labels
    from qanchor.names import ACTIVITY_VIEW, AS_OF, LABEL, USER_ID, embedding_field, embedding_view

    test = read_labels(site.home, scenario).part("test")
    views = [embedding_view(scenario), ACTIVITY_VIEW]
    frame = site.features.training_frame(test.select([USER_ID, AS_OF]), views)
    vectors = frame[embedding_field(scenario)].combine_chunks()
    known = np.asarray(vectors.is_valid())
    values = np.asarray(vectors.flatten()) if known.all() else np.asarray(vectors.filter(known).flatten())
    aggregates = np.stack([frame[name].to_numpy() for name in site.workspace.activity_columns], axis=1)
    probabilities = _truth_of(truth, scenario, test[USER_ID].to_pylist())
    return TestRows(
        values.reshape(int(known.sum()), -1).astype(np.float32),
        np.nan_to_num(aggregates[known].astype(np.float64), nan=400.0),
        test[LABEL].to_numpy().astype(np.int64)[known],
        None if probabilities is None else probabilities[known],
    )


def _truth_of(truth: pa.Table | None, scenario: str, users: list[str]) -> Floats | None:
    if truth is None or scenario not in truth.column_names:
        return None
    probability = dict(zip(truth["user_id"].to_pylist(), truth[scenario].to_pylist(), strict=True))
    return np.array([probability[user] for user in users])


def word_scores(site: Site, scenario: str, test: TestRows) -> Floats:
    """Scores of the test rows by an audience in words: the scenario's positive answer."""
    from qanchor.audience.describe import read_words
    from qanchor.audience.population import open_population

    population = open_population(site, scenario)
    words = read_words(site, population, site.workspace.scenario(scenario).positive)
    return words.scorer.score(test.vectors).astype(np.float64)


def measure(test: TestRows, words: Floats, repeats: int) -> dict[str, Any]:
    """Mean lifts over repetitions; `low` and `high` are the 95% interval of the mean."""
    from qanchor.metrics import roc_auc

    values_of: dict[str, list[float]] = {}
    methods: list[str] = []
    for seed in range(repeats):
        for name, (value, method) in _once(test, seed).items():
            values_of.setdefault(name, []).append(value)
            methods += [method] if method else []
    lifts = np.array(values_of["lift"])
    reach = 1.96 * lifts.std(ddof=1) / len(lifts) ** 0.5
    means = {name: float(np.mean(values)) for name, values in values_of.items()}
    return {
        "rows": len(test.labels),
        "rate": float(test.labels.mean()),
        "lift": means.pop("lift"),
        "low": float(lifts.mean() - reach),
        "high": float(lifts.mean() + reach),
        **means,
        "words": _lift(words, test.labels == 1),
        "words AUC": float(roc_auc(test.labels, words)),
        "method": max(set(methods), key=methods.count),
    }


def _once(test: TestRows, seed: int) -> dict[str, tuple[float, str]]:
    """Lift at 5% of each ranking, with one choice of seeds; and the chosen method."""
    from qanchor.audience.lookalike import LookalikeRequest, find_lookalikes
    from qanchor.audience.population import Population
    from qanchor.storage.vectors import IndexMetadata, IndexPlan, build_index

    positives = np.random.default_rng(seed).permutation(np.flatnonzero(test.labels == 1))
    seeds, held = np.split(positives, [min(MOST_SEEDS, len(positives) // 2)])
    names = np.array([f"{row:07d}" for row in range(len(test.labels))])
    others = np.setdiff1d(np.arange(len(names)), seeds)
    index = build_index(pa.array(names), test.vectors, IndexMetadata("", 0, ""), IndexPlan(kind="flat"))
    k = round(SHARE * len(others))
    listed = find_lookalikes(Population("", index), LookalikeRequest(names[seeds].tolist(), k))
    method = listed.choice.method if listed.choice else ""
    is_held = np.isin(np.arange(len(names)), held)
    logs = np.log1p(np.abs(test.aggregates))
    scaled = (logs - logs.mean(axis=0)) / (logs.std(axis=0) + 1e-9)
    ways: dict[str, Callable[[], Floats]] = {
        "raw aggregates": lambda: _centroid(test.aggregates, seeds),
        "scaled aggregates": lambda: _centroid(scaled, seeds),
        "cosine centroid": lambda: _centroid(test.vectors.astype(np.float64), seeds),
    }
    if test.truth is not None:
        truth = test.truth
        ways["most possible"] = lambda: truth
    lifts = {name: (_lift(score()[others], is_held[others]), "") for name, score in ways.items()}
    hits = np.isin(listed.rows, held).sum()
    return {"lift": (float(hits / len(held) / (k / len(others))), method), **lifts}


def _centroid(rows: Floats, seeds: NDArray[np.int64]) -> Floats:
    """Cosine to the seeds' mean."""
    centre = rows[seeds].mean(axis=0)
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(centre)
    return np.asarray(rows @ centre / np.maximum(lengths, 1e-12))


def _lift(scores: Floats, targets: NDArray[np.bool_]) -> float:
    """Share of all targets in the best 5%, over 5%; equal scores in the order of the rows."""
    k = round(SHARE * len(scores))
    best = np.argsort(-scores, kind="stable")[:k]
    return float(targets[best].sum() / targets.sum() / (k / len(scores)))


if __name__ == "__main__":
    main()
