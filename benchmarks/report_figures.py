"""Every figure of a report against scikit-learn, or a loop from the definition, on saved scores and frames.

    python -m benchmarks.report_figures HOME [HOME ...] [--report FILE] [--quick] [--json FILE]

HOME is a finished home (`qanchor-cli demo` makes one) with a report of its champions; the report is
read from HOME/reports/report.json, or from --report for a single home. Only the paths of files come from
qanchor: labels, scores, parts and segments are read from the files of report and heads.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.harness import Bar, arguments, finish, table
from benchmarks.heads import independent, independent_psi

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_PROBES = {"base": "base_probe", "tuned": "tuned_probe"}


def main() -> None:
    """Check and print."""
    options = _options()
    differences: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    for home in options.home:
        report = options.report or home / "reports" / "report.json"
        for scenario, checked in check_report(report, home).items():
            worst = max(checked.values())
            differences[f"{home.resolve().parent.name}_{scenario}"] = worst
            rows.append({"scenario": scenario, "figures": len(checked), "largest difference": worst})
    print(table(rows))
    bars = [Bar("largest difference of any figure of the report", max(differences.values()), 1e-9, "lower")]
    finish({**differences, "figures": float(sum(row["figures"] for row in rows))}, bars, options.json)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("home", nargs="+", type=Path)
    parser.add_argument("--report", type=Path, help="report.json of the single home")
    options = parser.parse_args()
    if options.report and len(options.home) > 1:
        parser.error("--report goes with a single HOME")
    return options


def check_report(report: Path, home: Path) -> dict[str, dict[str, float]]:
    """The difference of every figure from an independent computation, by scenario and figure.

    Args:
        report: path of report.json, next to scores/SCENARIO.parquet.
        home: home of the heads.
    """
    content = json.loads(report.read_text(encoding="utf-8"))
    differences = {}
    for one in content["scenarios"]:
        head = home / "heads" / one["scenario"] / one["head"]["version"]
        shown = pq.read_table(report.parent / "scores" / f"{one['scenario']}.parquet")
        differences[one["scenario"]] = dict(
            _scenario(
                one, shown, pq.read_table(head / "scores.parquet"), pq.read_table(head / "frame.parquet")
            )
        )
    return differences


def _scenario(
    one: Mapping[str, Any], shown: pa.Table, scores: pa.Table, frame: pa.Table
) -> Iterator[tuple[str, float]]:
    test = scores.filter(pc.equal(scores["part"], "test"))
    for name in ("user_id", "as_of", "label", "head"):
        yield f"rows: {name}", float(shown[name].to_pylist() != test[name].to_pylist())
    truth, head = np.asarray(shown["label"], dtype=np.int64), shown["head"].to_numpy()
    for scorer, claimed in one["head"]["metrics"].items():
        yield from _compared(scorer, claimed, independent(truth, shown[scorer].to_numpy()))
    yield from _drift(one["head"]["metrics"]["head"], scores)
    yield from _decisions(one, truth, head)
    yield from _calibration(one["calibration"], truth, head)
    yield from _segments(one["head"]["segments"], truth, head, frame)
    yield from _probes(one, shown)
    yield from _parts(one["data"]["parts"], scores)
    yield from _curve(one["charts"]["roc"], truth, head)


def _compared(
    name: str, claimed: Mapping[str, Any], expected: Mapping[str, float]
) -> Iterator[tuple[str, float]]:
    for figure, value in expected.items():
        yield f"{name}: {figure}", abs(claimed[figure] - value)


def _drift(head: Mapping[str, float], scores: pa.Table) -> Iterator[tuple[str, float]]:
    parts = {
        part: scores.filter(pc.equal(scores["part"], part))["head"].to_numpy()
        for part in ("train", "valid", "test")
    }
    for first in ("train", "valid"):
        moved = independent_psi(parts[first], parts["test"])
        yield f"psi {first} to test", abs(head[f"psi_{first}_test"] - moved)


def _decisions(one: Mapping[str, Any], truth: Ints, head: Floats) -> Iterator[tuple[str, float]]:
    from sklearn import metrics

    wrong, right, thresholds = metrics.roc_curve(truth, head, drop_intermediate=False)
    threshold = thresholds[int(np.argmax(right - wrong))]
    yield "ks threshold", abs(one["head"]["metrics"]["head"]["ks_threshold"] - threshold)
    matrix = metrics.confusion_matrix(truth, head >= threshold)
    names = ("true_negatives", "false_positives", "false_negatives", "true_positives")
    for name, count in zip(names, matrix.ravel(), strict=True):
        yield f"decisions: {name}", abs(one["confusion"][name] - float(count))
    expected = independent(truth, head)
    for campaign in one["campaigns"]:
        name, users = f"{100 * campaign['share']:.0f}", campaign["share"] * len(truth)
        reached = expected[f"gain_{name}"] * float(truth.sum())
        for figure, value in {
            "users": users,
            "reached": reached,
            "precision": reached / users,
        }.items():
            yield f"campaign {name}%: {figure}", abs(campaign[figure] - value)
        for figure in ("gain", "lift"):
            yield f"campaign {name}%: {figure}", abs(campaign[figure]["value"] - expected[f"{figure}_{name}"])


def _calibration(bins: Mapping[str, Any], truth: Ints, head: Floats) -> Iterator[tuple[str, float]]:
    from sklearn.calibration import calibration_curve

    observed, predicted = calibration_curve(truth, head, n_bins=10, strategy="quantile")
    for name, expected in {"observed": observed, "predicted": predicted}.items():
        same = len(bins[name]) == len(expected)
        yield f"calibration: {name}", float(np.abs(np.array(bins[name]) - expected).max()) if same else np.inf
    yield "calibration: rows", abs(sum(bins["rows"]) - float(len(truth)))


def _segments(
    segments: list[dict[str, Any]], truth: Ints, head: Floats, frame: pa.Table
) -> Iterator[tuple[str, float]]:
    from sklearn.metrics import roc_auc_score

    test = frame.filter(pc.equal(frame["part"], "test"))
    for one in segments:
        if one["value"] == "(other)":
            continue
        values = [value if value is not None else "(missing)" for value in test[one["feature"]].to_pylist()]
        rows = np.array([value == one["value"] for value in values])
        name = f"segment {one['feature']} = {one['value']}"
        yield f"{name}: rows", abs(one["rows"] - float(rows.sum()))
        yield f"{name}: rate", abs(one["rate"] - float(truth[rows].mean()))
        yield f"{name}: mean score", abs(one["mean_score"] - float(head[rows].mean()))
        if one["auc"] is not None:
            yield f"{name}: auc", abs(one["auc"] - roc_auc_score(truth[rows], head[rows]))
        if one["auc_gap"] is not None:
            others = roc_auc_score(truth[~rows], head[~rows])
            yield f"{name}: auc gap", abs(one["auc_gap"] - (one["auc"] - others))


def _probes(one: Mapping[str, Any], shown: pa.Table) -> Iterator[tuple[str, float]]:
    from sklearn.metrics import roc_auc_score

    query = one["anchor"] or {}
    if query.get("words_alone_auc"):
        kept = shown.filter(pc.is_valid(shown["words_alone"]))
        expected_area = roc_auc_score(kept["label"].to_numpy(), kept["words_alone"].to_numpy())
        yield "words alone: auc", abs(query["words_alone_auc"]["value"] - expected_area)
    probe = query.get("linear_probe")
    if probe is None:
        return
    areas = {}
    for side, column in _PROBES.items():
        kept = shown.filter(pc.is_valid(shown[column]))
        truth = np.asarray(kept["label"], dtype=np.int64)
        expected = independent(truth, kept[column].to_numpy())
        areas[side] = expected["auc"]
        yield from _compared(f"{side} probe", probe[side], expected)
    yield "tuning: difference", abs(probe["difference"]["value"] - (areas["tuned"] - areas["base"]))


def _parts(parts: list[dict[str, Any]], scores: pa.Table) -> Iterator[tuple[str, float]]:
    for one in parts:
        rows = scores.filter(pc.equal(scores["part"], one["part"]))
        expected = {
            "rows": rows.num_rows,
            "users": len(set(rows["user_id"].to_pylist())),
            "positives": sum(rows["label"].to_pylist()),
        }
        for name, value in expected.items():
            yield f"{one['part']}: {name}", abs(float(one[name]) - value)


def _curve(chart: Mapping[str, Any], truth: Ints, head: Floats) -> Iterator[tuple[str, float]]:
    """The drawn points are points of scikit-learn's curve, rounded to a screen's resolution."""
    from sklearn.metrics import roc_curve

    wrong, right, _ = roc_curve(truth, head, drop_intermediate=False)
    known = set(zip(np.round(wrong, 5).tolist(), np.round(right, 5).tolist(), strict=True))
    drawn = next(series for series in chart["series"] if series["name"] == "head")
    strangers = [point for point in zip(drawn["x"], drawn["y"], strict=True) if point not in known]
    yield "points drawn that are not on the curve", float(len(strangers))


if __name__ == "__main__":
    main()
