"""Difficulty of the simulated world: reachable ceilings, and the AUCs of simple models.

    python -m benchmarks.world [--quick] [--users N] [--seed S] [--json FILE]

Three models without any embedding: logistic regression and LightGBM on raw activity aggregates, and logistic
regression on recency-weighted counts of event texts with the aggregates. `way` is
(AUC - 0.5) / (ceiling - 0.5).
Every AUC is the expected one under the test rows' true probabilities, as the ceiling is; training sees labels
that happened. The last column is the text model's AUC on the test labels that happened.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.harness import Bar, arguments, finish, table
from qanchor.storage.event_log import EventLog

Floats = NDArray[np.float64]
REPO = Path(__file__).resolve().parent.parent / "feature_repo"
HARD_WAY, HARD_SCENARIOS = 0.90, 5
LOWEST, HIGHEST = 0.65, 0.95
BOOSTER: dict[str, Any] = {
    "objective": "binary",
    "num_leaves": 15,
    "learning_rate": 0.04,
    "min_data_in_leaf": 40,
    "lambda_l2": 5.0,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "feature_fraction": 0.7,
    "num_threads": 1,
    "seed": 0,
    "deterministic": True,
    "verbose": -1,
}


class WorldLog(EventLog):
    """A world's event files, read like an event log."""

    def connect(
        self, threads: int = 1, memory_limit: str | None = None, files: Sequence[Path] | None = None
    ) -> Any:
        """A DuckDB connection with the view `events`, each event once."""
        import duckdb

        connection = duckdb.connect(config={"threads": threads, "memory_limit": memory_limit or "2GB"})
        connection.execute("SET TimeZone='UTC'")
        read = [str(path) for path in files or sorted(self.root.glob("events*.parquet"))]
        connection.execute(
            f"CREATE TABLE events AS SELECT DISTINCT ON (event_id) * FROM read_parquet({read})"
        )
        return connection


@dataclass(frozen=True)
class Inputs:
    """Inputs of the simple models.

    Args:
        aggregates: raw activity aggregates, (rows, columns).
        texts: recency-weighted counts of texts, sparse (rows, texts x decays).
        train: rows to fit on, bool (rows,).
        test: rows to score, bool (rows,).
    """

    aggregates: Floats
    texts: Any
    train: NDArray[np.bool_]
    test: NDArray[np.bool_]


def read_inputs(world: Path) -> Inputs:
    """The simple models' inputs for a world on disk."""
    from qanchor.events.activity import activity_table
    from qanchor.workspace import load_workspace

    workspace = load_workspace(REPO)
    log = WorldLog(world, workspace)
    requests = pq.read_table(world / "labels" / "fraud.parquet")
    activity = activity_table(log, workspace, requests)
    columns = [activity[name].to_numpy(zero_copy_only=False) for name in workspace.activity_columns]
    aggregates = np.nan_to_num(np.stack(columns, axis=1).astype(np.float64), nan=400.0)
    split = np.array(requests["split"].to_pylist())
    texts = _texts(log, requests, split != "test")
    return Inputs(aggregates, texts, split == "train", split == "test")


def _texts(log: EventLog, requests: pa.Table, known: NDArray[np.bool_]) -> Any:
    from scipy import sparse

    names = [name for name, kind in log.workspace.event_columns.items() if kind == "text"]
    text = "concat_ws(' ', modality, " + ", ".join(f'"{name}"' for name in names) + ")"
    with log.connect() as connection:
        connection.register("requests", requests.append_column("row", pa.array(range(len(requests)))))
        counts = connection.execute(
            f"""
            WITH aged AS (SELECT r.row, {text} AS text, epoch(r.as_of - e.event_time) / 86400 AS age
                FROM requests r JOIN events e ON e.user_id = r.user_id AND e.event_time < r.as_of
                WHERE e.event_time >= r.as_of - INTERVAL {log.workspace.window_days} DAY)
            SELECT row, dense_rank() OVER (ORDER BY text) - 1 AS text, sum(exp(-age / 20)) AS new,
                sum(exp(-age / 80)) AS old FROM aged GROUP BY row, aged.text ORDER BY row, text
            """
        ).fetchnumpy()
    shape = (len(requests), int(counts["text"].max()) + 1)
    parts = [
        sparse.csr_matrix((np.log1p(counts[w]), (counts["row"], counts["text"])), shape)
        for w in ("new", "old")
    ]
    both = sparse.hstack(parts).tocsr()
    mean = np.asarray(both[known].mean(axis=0)).ravel()
    square = np.asarray(both[known].multiply(both[known]).mean(axis=0)).ravel()
    spread = np.sqrt(np.maximum(square - mean**2, 0)) + 1e-3
    return (both @ sparse.diags(0.3 / spread)).tocsr()


def scores(inputs: Inputs, labels: NDArray[np.int64]) -> dict[str, Floats]:
    """Test scores of each simple model, fitted on the training rows."""
    import lightgbm
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression

    train, test = inputs.train, inputs.test
    logs = np.log1p(inputs.aggregates)
    logs = (logs - logs[train].mean(axis=0)) / (logs[train].std(axis=0) + 1e-9)
    linear = LogisticRegression(max_iter=500, C=0.1).fit(logs[train], labels[train])
    rows = lightgbm.Dataset(inputs.aggregates[train], labels[train])
    booster = lightgbm.train(BOOSTER, rows, num_boost_round=150)
    wide = sparse.hstack([inputs.texts, sparse.csr_matrix(logs)]).tocsr()
    worded = LogisticRegression(max_iter=300, C=0.003).fit(wide[train], labels[train])
    return {
        "aggregates linear": linear.decision_function(logs[test]),
        "aggregates LightGBM": np.asarray(booster.predict(inputs.aggregates[test])),
        "texts linear": worded.decision_function(wide[test]),
    }


def measure(world: Path) -> list[dict[str, Any]]:
    """One row for each scenario: positives, ceiling, each model's AUC, and the way of the best head."""
    from qanchor.metrics import roc_auc

    inputs = read_inputs(world)
    ceilings = json.loads((world / "ceilings.json").read_text(encoding="utf-8"))
    truth = pq.read_table(world / "truth.parquet")
    rows = []
    for scenario, known in ceilings.items():
        labels = pq.read_table(world / "labels" / f"{scenario}.parquet")["label"].to_numpy().astype(np.int64)
        by_model = scores(inputs, labels)
        judged = {name: _judge(score, truth[scenario].to_numpy()) for name, score in by_model.items()}
        way = {name: (value - 0.5) / (known["expected"] - 0.5) for name, value in judged.items()}
        rows.append(
            {
                "scenario": scenario,
                "positives": float(labels[inputs.test].mean()),
                "ceiling": known["expected"],
                **judged,
                "way of the best head": max(way["aggregates linear"], way["aggregates LightGBM"]),
                "way of texts": way["texts linear"],
                "measured on labels": roc_auc(labels[inputs.test], by_model["texts linear"]),
            }
        )
    return rows


def _judge(score: Floats, probability: Floats) -> float:
    from qanchor.simulation.ceiling import expected_auc

    return expected_auc(score[: len(probability)], probability)


def bars(rows: list[dict[str, Any]]) -> list[Bar]:
    """The bars of the world."""
    hard = sum(row["way of the best head"] <= HARD_WAY for row in rows)
    return [
        Bar(
            f"scenarios where the best head stays at or under {HARD_WAY} of the way",
            hard,
            HARD_SCENARIOS,
            "higher",
        ),
        Bar("lowest ceiling", min(row["ceiling"] for row in rows), LOWEST, "higher"),
        Bar("highest ceiling", max(row["ceiling"] for row in rows), HIGHEST, "lower"),
        Bar("lowest positive rate", min(row["positives"] for row in rows), 0.03, "higher"),
        Bar("highest positive rate", max(row["positives"] for row in rows), 0.45, "lower"),
    ]


def main() -> None:
    """Simulate a world, measure it, print the table."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--users", type=int, help="default 4,000; 2,000 with --quick")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    from qanchor.threads import limit_threads

    limit_threads(1)
    from qanchor.simulation.config import WorldPlan
    from qanchor.simulation.world import simulate

    plan = WorldPlan(users=options.users or (2000 if options.quick else 4000), seed=options.seed)
    with tempfile.TemporaryDirectory() as folder:
        simulate(plan, Path(folder))
        rows = measure(Path(folder))
    print(table(rows))
    figures = {
        f"{row['scenario']} {name}": v for row in rows for name, v in row.items() if name != "scenario"
    }
    for name in ("way of the best head", "way of texts"):
        figures[f"mean {name}"] = float(np.mean([row[name] for row in rows]))
        print(f"mean {name}: {figures[f'mean {name}']:.3f}")
    finish(figures, bars(rows), options.json)


if __name__ == "__main__":
    main()
