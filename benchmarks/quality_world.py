"""AUC of the embeddings on a simulated world, between chance and the reachable ceiling.

    qanchor-cli simulate --users 4000 --out world
    python -m benchmarks.quality_world world [--quick] [--json FILE]

Linear probes (logistic regression, its strength chosen on the valid part, fitted on the train part) of
activity aggregates, of the untuned and of the tuned embedding, on users and times outside training; also the
prototypes of tuning, and the scenario's words alone, without any label.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.harness import Bar, arguments, finish, table
from qanchor.aggregates import ACTIVITY_WINDOWS_DAYS
from qanchor.events.history import EventArrays, Int64, arrays_from_table, slice_histories
from qanchor.events.label_rows import LABEL_SCHEMA
from qanchor.events.labels import Labels, earliest_cutoff, holdout_users
from qanchor.home import Home
from qanchor.metrics import roc_auc
from qanchor.model.space import narrowed
from qanchor.names import AS_OF, LABEL, SPLITS, USER_ID
from qanchor.progress import Silent
from qanchor.times import DAY_US, column_microseconds
from qanchor.workspace import Workspace, load_workspace

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """One part of a scenario's labels as requests."""

    rows: Int64
    cutoffs: Int64
    labels: Int64


def main() -> None:
    """Pre-train, tune, probe and print."""
    options = _options()
    from qanchor.threads import limit_threads

    limit_threads(0)
    workspace = load_workspace(options.repo)
    arrays = arrays_from_table(pq.read_table(options.world / "events.parquet"), workspace)
    home = Home(options.world)
    names = [name for name in workspace.scenarios if (home.labels / f"{name}.parquet").exists()]
    labels = [
        Labels(name, pq.read_table(home.labels / f"{name}.parquet", schema=LABEL_SCHEMA)) for name in names
    ]
    ceilings = _ceilings(options.world)
    results, figures = measure(options, workspace, arrays, labels)
    rows = [_row(name, ceilings.get(name), result) for name, result in results.items()]
    print(table(rows))
    figures |= {f"{row['scenario']}_{key}": row[key] for row in rows for key in row if key != "scenario"}
    means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key != "scenario"}
    figures |= {f"mean_{key}": value for key, value in means.items()}
    print("\nmean: " + "  ".join(f"{key} {value:.4f}" for key, value in means.items()))
    bars = [
        Bar("tuned above base, AUC", means["tuned"] - means["base"], 0.0, "higher"),
        Bar("base above aggregates, AUC", means["base"] - means["aggregates"], 0.0, "higher"),
        Bar("zero-label, mean AUC", means["zero-label"], 0.65, "higher"),
    ]
    if "way tuned" in means:
        bars.insert(0, Bar("way of the tuned probe to the ceiling", means["way tuned"], 0.85, "higher"))
    finish(figures, bars, options.json)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__ or "")
    parser.add_argument("world", type=Path, help="folder with events.parquet, labels/ and ceilings.json")
    parser.add_argument(
        "--repo", type=Path, default=Path("feature_repo"), help="feature repository of the world"
    )
    parser.add_argument("--minutes", type=float, help="minutes of pre-training")
    parser.add_argument("--steps", type=int, help="steps of pre-training")
    parser.add_argument("--points", type=int, help="points (a user at a cut-off) of pre-training")
    parser.add_argument("--widths", type=int, nargs="*", default=[], help="nested widths, probed as well")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _ceilings(world: Path) -> dict[str, float]:
    path = world / "ceilings.json"
    if not path.exists():
        return {}
    return {name: float(value["expected"]) for name, value in json.loads(path.read_text()).items()}


def measure(
    options: argparse.Namespace, workspace: Workspace, arrays: EventArrays, labels: list[Labels]
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Test AUCs of every scenario by probed features, and figures of the run."""
    from qanchor.audience.zero_label import read_answers
    from qanchor.model.checkpoint import LoadedModel
    from qanchor.model.runtime import choose_runtime
    from qanchor.training.prefixes import PrefixBank
    from qanchor.training.pretrain import PretrainConfig, Visible, train_model
    from qanchor.training.tune import TuneConfig
    from qanchor.training.tune_scenarios import Tuning, tune_scenarios
    from qanchor.training.use_cases import choose_until
    from qanchor.training.useru.pairs import UserUConfig

    home = Home(options.world)
    visible = Visible(choose_until(None, earliest_cutoff(home)), frozenset(holdout_users(home)))
    steps = options.steps or (150 if options.quick else PretrainConfig.steps)
    useru = UserUConfig(most_points=options.points or UserUConfig.most_points)
    config = PretrainConfig(
        steps=steps, minutes=options.minutes, seed=options.seed, useru=useru, widths=tuple(options.widths)
    )
    trained = train_model(arrays, workspace, config, visible, Silent())
    runtime = choose_runtime("cpu", "float32")
    parts = trained.model.requires_grad_(False), trained.tokenizer, trained.normaliser
    loaded = LoadedModel(*parts, trained.model.config, {}, "", runtime)
    tuned = tune_scenarios(Tuning(loaded, workspace, TuneConfig(seed=options.seed)), arrays, labels, Silent())
    results: dict[str, dict[str, float]] = {}
    bank, kept = PrefixBank(*parts, workspace), Rows(*(np.empty(0, np.int64) for _ in range(3)))
    for some in labels:
        every, bounds = label_rows(arrays, [some.part(part) for part in SPLITS])
        if not (np.array_equal(every.rows, kept.rows) and np.array_equal(every.cutoffs, kept.cutoffs)):
            bank.fill(arrays, every.rows, every.cutoffs, Silent())
            kept = every
        question = trained.tokenizer.encode_queries([workspace.scenario(some.scenario).query])[0]
        requests, prompt = np.arange(len(every.rows)), tuned[some.scenario]
        vectors = bank.vectors(question, prompt.vectors, requests)
        untuned = bank.vectors(question, None, requests)
        words = read_answers(loaded, workspace, some.scenario, vocabulary(arrays))
        test_labels = np.split(every.labels, bounds)[2]
        test = np.split(vectors, bounds)[2] @ (prompt.prototypes[1] - prompt.prototypes[0]).numpy()
        results[some.scenario] = {
            "aggregates": _probe(activity(arrays, workspace, every), every.labels, bounds),
            "base": _probe(untuned, every.labels, bounds),
            "tuned": _probe(vectors, every.labels, bounds),
            **{f"tuned, {w}": _probe(narrowed(vectors, w), every.labels, bounds) for w in options.widths},
            "prototypes": float(roc_auc(test_labels, test)),
            "zero-label": words.auc(np.split(untuned, bounds)[2], test_labels),
        }
    losses = {name: trained.metrics[name][-20:] for name in ("contrastive_loss", "next_token_loss")}
    figures = {
        key: trained.metrics[key] for key in ("steps", "pairs", "seconds", "peak_memory_mib", "parameters")
    }
    figures |= {f"last_{name}": float(np.mean(values)) for name, values in losses.items()}
    figures |= {f"retrieval_{key}": value for key, value in trained.metrics["after"].items()}
    figures["tune_seconds"] = sum(prompt.metrics["seconds"] for prompt in tuned.values())
    return results, figures


def vocabulary(arrays: EventArrays) -> Counter[str]:
    """Words of the events' texts, like `qanchor.audience.describe.event_words` of a log."""
    words: Counter[str] = Counter()
    for text in arrays.texts:
        words.update(set(re.findall(r"[^\W_]+", text.lower())))
    return words


def label_rows(arrays: EventArrays, parts: Sequence[pa.Table]) -> tuple[Rows, Int64]:
    """The label rows of all parts in order, and the boundaries of the parts."""
    pieces = [_rows(arrays, part) for part in parts]
    columns = ([getattr(piece, name) for piece in pieces] for name in ("rows", "cutoffs", "labels"))
    every = Rows(*(np.concatenate(column) for column in columns))
    return every, np.cumsum([len(piece.rows) for piece in pieces])[:-1]


def _rows(arrays: EventArrays, part: pa.Table) -> Rows:
    cutoffs = column_microseconds(part[AS_OF])
    users = np.array(part[USER_ID].to_pylist(), dtype=object)
    return Rows(arrays.user_rows(users), cutoffs, np.asarray(part[LABEL]).astype(np.int64))


def _probe(vectors: NDArray[Any], labels: Int64, bounds: Int64) -> float:
    from qanchor.linear_probe import ProbeRows, fit_probe

    train, valid, test = np.split(vectors, bounds)
    ones = np.split(labels, bounds)
    return float(roc_auc(ones[2], fit_probe(ProbeRows(train, ones[0], valid, ones[1])).predict(test)))


def activity(arrays: EventArrays, workspace: Workspace, requests: Rows) -> Floats:
    """The activity view as logarithms, [requests, features]: counts, sums and recency."""
    stop = slice_histories(arrays, requests.rows, requests.cutoffs, workspace).stop
    columns = []
    for position, events in enumerate(arrays.modalities):
        spec = workspace.modalities[events.name]
        end = stop[:, position]
        for days in ACTIVITY_WINDOWS_DAYS:
            begin = slice_histories(arrays, requests.rows, requests.cutoffs - days * DAY_US, workspace).stop[
                :, position
            ]
            columns.append(np.log1p(end - begin))
            if spec.amount:
                values = np.nan_to_num(events.numbers[:, spec.numbers.index(spec.amount)])
                sums = np.concatenate([[0.0], np.cumsum(values)])
                columns.append(np.log1p(np.maximum(sums[end] - sums[begin], 0)))
        known = (requests.rows >= 0) & (end > events.offsets[np.maximum(requests.rows, 0)])
        since = np.full(len(end), 400.0)
        since[known] = (requests.cutoffs[known] - events.time[end[known] - 1]) / DAY_US
        columns.append(np.log1p(since))
    return np.stack(columns, axis=1).astype(np.float64)


def _row(scenario: str, ceiling: float | None, aucs: dict[str, float]) -> dict[str, Any]:
    row: dict[str, Any] = {"scenario": scenario, **aucs}
    if ceiling is not None:
        row["ceiling"] = ceiling
        row |= {
            f"way {name}": (aucs[name] - 0.5) / (ceiling - 0.5) for name in ("aggregates", "base", "tuned")
        }
    return row


if __name__ == "__main__":
    main()
