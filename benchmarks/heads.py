"""Heads: figures against scikit-learn, calibration, time to train, scoring rate, named events by deletion.

    python -m benchmarks.heads [--home HOME REPO]... [--data DIR] [--quick] [--json FILE]

--home is a finished home (`qanchor-cli demo` makes one) with its feature repository; repeatable. Every
champion there is checked, and the deletion test runs on the first home. --data is a folder of real data sets,
DIR/NAME/aggregates.parquet and DIR/NAME/labels/TASK.parquet: heads on those aggregates are checked as well.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.harness import Bar, arguments, finish, table
from benchmarks.heads_deletion import measure_deletion, open_home, with_heads
from benchmarks.heads_world import SCENARIO, make_world
from qanchor.heads.figures import figures
from qanchor.heads.fit import FitOptions, FitRows, FitTask, fit_head
from qanchor.metrics import SHARES, expected_calibration_error, roc_auc
from qanchor.names import SPLITS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def main() -> None:
    """Measure and print."""
    options = _options()
    measured: dict[str, float] = {}
    bars: list[Bar] = []
    differences, errors = _check_homes(options), _check_data(options)
    differences |= errors.pop("differences", {})
    if differences:
        worst = max(differences.values())
        measured |= {f"difference_{name}": value for name, value in differences.items()}
        bars.append(Bar("largest difference from scikit-learn, any figure", worst, 1e-9, "lower"))
    for name, error in errors.items():
        measured[f"ece_{name}"] = error
        if name.startswith("uci_credit_default"):
            bars.append(Bar(f"calibration error, {name}", error, 0.02, "lower"))
    timed = _time_training(options)
    measured |= timed
    bars += [
        Bar(
            f"head train, {timed['train_users']:,.0f} users x 228 features, seconds",
            timed["train_seconds"],
            60,
            "lower",
        ),
        Bar("scoring, users/s", timed["score_users_per_second"], 100_000, "higher"),
    ]
    if options.home:
        deleted = measure_deletion(open_home(*options.home[0]), 40 if options.quick else options.users)
        measured |= deleted
        bars.append(
            Bar("named events move the score more than random ones", deleted["deletion_named"], 0.9, "higher")
        )
    finish(measured, bars, options.json)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--home", nargs=2, action="append", type=Path, default=[], metavar=("HOME", "REPO"))
    parser.add_argument("--data", type=Path, help="folder of real sets")
    parser.add_argument("--users", type=int, default=200, help="users of the deletion test")
    parser.add_argument("--threads", type=int, default=2, help="threads of LightGBM")
    return parser.parse_args()


def independent(labels: Ints, scores: Floats) -> dict[str, float]:
    """The figures of a card by scikit-learn, or by loops where it has none."""
    from sklearn import metrics

    wrong, right, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
    expected = {
        "auc": metrics.roc_auc_score(labels, scores),
        "ks": float((right - wrong).max()),
        "pr_auc": metrics.average_precision_score(labels, scores),
        "brier": metrics.brier_score_loss(labels, scores),
        "log_loss": metrics.log_loss(labels, scores),
        "ece": _calibration_error(labels, scores),
    }
    for name, share in SHARES.items():
        expected[f"gain_{name}"] = _gain(labels, scores, share)
        expected[f"lift_{name}"] = expected[f"gain_{name}"] / share
    return expected


def _calibration_error(labels: Ints, scores: Floats) -> float:
    gaps = 0.0
    for tenth in range(10):
        inside = [row for row, score in enumerate(scores) if min(int(score * 10), 9) == tenth]
        if inside:
            gaps += len(inside) * abs(float(np.mean(scores[inside])) - float(np.mean(labels[inside])))
    return gaps / len(labels)


def _gain(labels: Ints, scores: Floats, share: float) -> float:
    """Gain by a walk down the list; rows of equal score share the remaining room."""
    left, caught = share * len(labels), 0.0
    for score in np.unique(scores)[::-1]:
        group = labels[scores == score]
        caught += min(left, len(group)) * float(group.mean())
        left -= len(group)
        if left <= 0:
            break
    return caught / float(labels.sum())


def independent_psi(expected: Floats, actual: Floats) -> float:
    """The population stability index over tenths of the expected values, by a loop."""
    edges = sorted(set(np.quantile(expected, np.linspace(0, 1, 11)).tolist()))[1:-1]
    shares = []
    for values in (expected, actual):
        counts = [0] * (len(edges) + 1)
        for value in values:
            counts[sum(value > edge for edge in edges)] += 1
        floored = [max(count / len(values), 1e-4) for count in counts]
        shares.append([share / sum(floored) for share in floored])
    return float(sum((b - a) * np.log(b / a) for a, b in zip(shares[0], shares[1], strict=True)))


def _difference(labels: Ints, scores: Floats, claimed: Mapping[str, float]) -> float:
    return max(abs(claimed[name] - value) for name, value in independent(labels, scores).items())


def _check_homes(options: argparse.Namespace) -> dict[str, float]:
    """The largest difference of each champion's card from scikit-learn, on its stored scores."""
    from qanchor.heads.card import read_scores
    from qanchor.heads.score import load_head

    differences, rows = {}, []
    for home, repo in options.home:
        site = open_home(home, repo)
        for scenario in with_heads(site):
            head = load_head(site, scenario)
            scores = read_scores(head.folder, head.card)
            test = scores.filter(pc.equal(scores["part"], "test"))
            truth = np.asarray(test["label"], dtype=np.int64)
            worst = max(
                _difference(truth, test[name].to_numpy(), claimed)
                for name, claimed in head.card.metrics.items()
            )
            parts = {
                part: scores.filter(pc.equal(scores["part"], part))["head"].to_numpy() for part in SPLITS
            }
            moved = head.card.metrics["head"]["psi_train_test"]
            worst = max(worst, abs(moved - independent_psi(parts["train"], parts["test"])))
            differences[f"{site.workspace.repo.parent.parent.name}_{scenario}"] = worst
            rows.append(_shown(scenario, head.card.metrics["head"], worst))
    if rows:
        print("champions on their test rows\n" + table(rows) + "\n")
    return differences


def _shown(name: str, claimed: Mapping[str, float], worst: float) -> dict[str, Any]:
    shown = {key: claimed[key] for key in ("auc", "ks", "pr_auc", "ece", "lift_10")}
    return {"head": name, "rows": int(claimed["rows"]), **shown, "difference": worst}


def _check_data(options: argparse.Namespace) -> dict[str, Any]:
    """Heads on the hand-made aggregates of real data sets: differences from scikit-learn, calibration errors.

    Fold f is the test part, fold f-1 stops, selects and calibrates; the error is over all folds' test rows.
    """
    if options.data is None:
        return {}
    rows: list[dict[str, Any]] = []
    differences: dict[str, float] = {}
    errors: dict[str, float] = {}
    for labels_path in sorted(options.data.glob("*/labels/*.parquet")):
        name = f"{labels_path.parent.parent.name}_{labels_path.stem}"
        folds = list(_folds(labels_path))
        if options.quick:
            folds = folds[:2]
        truth, scores = [], []
        for task, test in folds:
            head = fit_head(task, FitOptions(threads=options.threads))
            truth.append(test.labels)
            scores.append(head.predict(test.features))
            claimed = figures(test.labels, scores[-1])
            differences[name] = max(differences.get(name, 0.0), _difference(test.labels, scores[-1], claimed))
        errors[name] = expected_calibration_error(np.concatenate(truth), np.concatenate(scores))
        areas = [roc_auc(one, score) for one, score in zip(truth, scores, strict=True)]
        rows.append(
            {
                "head on aggregates": name,
                "rows": sum(len(one) for one in truth),
                "AUC, mean of folds": float(np.mean(areas)),
                "ECE, all folds": errors[name],
                "difference": differences[name],
            }
        )
    print(table(rows) + "\n")
    return {**errors, "differences": differences}


def _folds(labels_path: Path) -> Iterator[tuple[FitTask, FitRows]]:
    labels = pq.read_table(labels_path)
    features = pq.read_table(labels_path.parent.parent / "aggregates.parquet")
    keys = [name for name in ("user_id", "as_of") if name in features.column_names]
    joined = labels.join(features, keys, join_type="inner").sort_by([("user_id", "ascending")])
    known = set(labels.column_names)
    names = tuple(
        field.name
        for field in joined.schema
        if field.name not in known and (pa.types.is_floating(field.type) or pa.types.is_integer(field.type))
    )
    matrix = np.stack([joined[name].cast(pa.float64()).to_numpy() for name in names], axis=1)
    truth, fold = np.asarray(joined["label"], dtype=np.int64), np.asarray(joined["fold"])
    for number in sorted(set(fold.tolist())):
        valid = (number - 1) % (int(fold.max()) + 1)
        parts = [(fold != number) & (fold != valid), fold == valid, fold == number]
        train, middle, test = (FitRows(matrix[p].astype(np.float32), truth[p]) for p in parts)
        yield FitTask(train, middle, names), test


def _time_training(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of `train_head` on a real feature repository, all of it, and the rate of scoring its rows."""
    from qanchor.heads.score import load_head
    from qanchor.heads.train import TrainOptions, train_head
    from qanchor.progress import Silent

    users = 10_000 if options.quick else 30_000
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder), users)
        began = time.monotonic()
        fit = FitOptions(threads=options.threads)
        trained = train_head(world.site, SCENARIO, TrainOptions(fit=fit), Silent())
        seconds = time.monotonic() - began
        head = load_head(world.site, SCENARIO)
        frame = pq.read_table(head.folder / "frame.parquet")
        many = pa.concat_tables([frame] * max(1, 120_000 // users)).combine_chunks()
        head.score(many.slice(0, 1000))
        began = time.monotonic()
        head.score(many)
        rate = many.num_rows / (time.monotonic() - began)
    print(
        f"train: {users:,} users x (128 + {world.features}) features in {seconds:.1f} s, "
        f"{sum(trained.card.rounds)} trees, AUC {trained.card.metrics['head']['auc']:.4f}; "
        f"scoring {rate:,.0f} users/s\n"
    )
    return {"train_seconds": seconds, "train_users": float(users), "score_users_per_second": rate}


if __name__ == "__main__":
    main()
