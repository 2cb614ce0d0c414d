"""The value of embeddings on real data, against hand-made features.

    python -m benchmarks.quality [--data DIR] [--set NAME]... [--cache DIR] [--quick] [--json FILE]
        [--out-of-time] [--peers coles pragmatiq]

Tasks, cut-offs and folds come with the data sets. Pre-training reads no label and no event at or after a
set's earliest cut-off; prompts and heads of a fold read labels of the other folds alone. Without the data the
benchmark is skipped. Models, vectors and scores are stored in --cache by code, configuration and data: a run
continues an interrupted one, and reports what it took from there. With --peers, other models are installed
from PyPI, each into its environment below --environments, and trained on the same events.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Bar, arguments, finish, table
from benchmarks.quality_cache import ResultCache
from benchmarks.quality_data import DATA_SETS, DataSet, Task, load_data_set
from benchmarks.quality_figures import Figures, Gain, Resampler, figures_of
from benchmarks.quality_heads import (
    BEST,
    LINEAR,
    TREES,
    Block,
    CacheStage,
    Candidates,
    FeaturesOfFold,
    Scored,
    score_head,
)
from benchmarks.quality_model import TrainedModel, train_model
from benchmarks.quality_peers import PEERS, PeerRun, peer_vectors
from benchmarks.quality_published import COLES, COLES_SECONDS, OUT_OF_TIME
from benchmarks.quality_recipes import recipe_of
from benchmarks.quality_time import out_of_time
from benchmarks.quality_tune import TaskVectors, embed_tasks
from qanchor.progress import Silent

REFERENCE = "best head, aggregates"
UNTRAINED = "linear probe, untrained"
BASE = "linear probe, base"
TUNED = "linear probe, tuned"
PROTOTYPES = "prototypes, tuned"
TREES_ALONE = "LightGBM, aggregates"
TUNED_HEAD = "best head, tuned"
FUSED_HEAD = "best head, aggregates + tuned"
FUSED_BASE = "logistic, aggregates + base"


def main() -> None:
    """Train or read from the cache, fit heads, print."""
    options = _options()
    folders = [options.data / name for name in options.set or DATA_SETS]
    missing = [folder for folder in folders if not (folder / "events.parquet").exists()]
    if missing:
        print(f"skipped: there is no {missing[0]}; --data names the folder that holds the data sets")
        return
    from qanchor.threads import limit_threads

    limit_threads(options.threads)
    cache = ResultCache(options.cache)
    measured = [_measure(load_data_set(folder), options, cache) for folder in folders]
    _report(measured, options, cache)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    shared = Path(__file__).parents[2] / "shared" / "benchmarks"
    parser.add_argument("--data", type=Path, default=shared, help="folder of the data sets")
    parser.add_argument("--set", action="append", choices=DATA_SETS, help="only this data set")
    parser.add_argument("--cache", type=Path, default=Path("benchmarks/results/quality"))
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--out-of-time", action="store_true", help="also heads fitted 90 days earlier")
    parser.add_argument("--peers", nargs="+", choices=sorted(PEERS), default=[], help="also these models")
    parser.add_argument(
        "--environments", type=Path, help="folder of the peers' environments; default: below --cache"
    )
    parser.add_argument("--draws", type=int, default=1_000, help="draws of the bootstrap")
    return parser.parse_args()


@dataclass(frozen=True)
class Measured:
    """One data set's scores.

    Args:
        data: data set.
        scores: scores by row of the table and task, [rows].
        chosen: chosen heads by row and task.
        trained: model with its training time.
        tune_seconds: tuning time of all prompts.
        peer_seconds: training time of the peers, by row of the table.
    """

    data: DataSet
    scores: Mapping[str, Mapping[str, Any]]
    chosen: Mapping[str, Mapping[str, tuple[str, ...]]]
    trained: TrainedModel
    tune_seconds: float
    peer_seconds: Mapping[str, float]


def _measure(data: DataSet, options: argparse.Namespace, cache: ResultCache) -> Measured:
    recipe, progress = recipe_of(data.name, options.quick), Silent()
    trained = train_model(data, recipe.pretrain, cache, progress)
    untrained = train_model(data, replace(recipe.pretrain, steps=0, minutes=None), cache, progress)
    vectors = embed_tasks(data, trained.loaded, recipe.tune, cache, progress)
    control = embed_tasks(data, untrained.loaded, None, cache, progress)
    run = PeerRun(options.data, options.environments or options.cache / "environments", options.threads)
    peers = {
        f"linear probe, {PEERS[name].name} (here)": peer_vectors(data, PEERS[name], run, cache)
        for name in options.peers
    }
    scores: dict[str, dict[str, Any]] = {}
    chosen: dict[str, dict[str, tuple[str, ...]]] = {}
    for name, task in data.tasks.items():
        stage = CacheStage(cache, f"{data.name}: heads")
        heads = _heads(task, vectors[name], control[name], stage) | {
            row: _probe(task, peer.by_task[name], stage) for row, peer in peers.items()
        }
        for row, scored in heads.items():
            scores.setdefault(row, {})[name] = scored.scores
            chosen.setdefault(row, {})[name] = scored.chosen
        scores.setdefault(PROTOTYPES, {})[name] = vectors[name].prototypes
    seconds = sum(part.tune_seconds for part in vectors.values())
    peer_seconds = {row: peer.seconds for row, peer in peers.items()}
    return Measured(data, scores, chosen, trained, seconds, peer_seconds)


def _probe(task: Task, vectors: NDArray[np.float32], stage: CacheStage) -> Scored:
    block = Block(vectors, "standard")
    return score_head(lambda _: (block,), task.labels, task.folds, LINEAR, stage)


def _heads(task: Task, vectors: TaskVectors, control: TaskVectors, stage: CacheStage) -> dict[str, Scored]:
    hand_made = Block(task.aggregates, "quantile")

    def tuned(outer: int) -> Block:
        return Block(vectors.tuned[outer], "standard")

    def fixed(*blocks: Block) -> FeaturesOfFold:
        return lambda _: blocks

    base = Block(vectors.base, "standard")
    plan: dict[str, tuple[Candidates, FeaturesOfFold]] = {
        UNTRAINED: (LINEAR, fixed(Block(control.base, "standard"))),
        BASE: (LINEAR, fixed(base)),
        TUNED: (LINEAR, lambda outer: (tuned(outer),)),
        "logistic, aggregates": (LINEAR, fixed(hand_made)),
        TREES_ALONE: (TREES, fixed(hand_made)),
        REFERENCE: (BEST, fixed(hand_made)),
        TUNED_HEAD: (BEST, lambda outer: (tuned(outer),)),
        FUSED_BASE: (LINEAR, fixed(hand_made, base)),
        FUSED_HEAD: (BEST, lambda outer: (hand_made, tuned(outer))),
    }
    return {
        row: score_head(features, task.labels, task.folds, candidates, stage)
        for row, (candidates, features) in plan.items()
    }


def _report(measured: Sequence[Measured], options: argparse.Namespace, cache: ResultCache) -> None:
    data = [one.data for one in measured]
    tasks = [task for one in data for task in one.tasks.values()]
    scores = {
        row: {name: values for one in measured for name, values in one.scores[row].items()}
        for row in measured[0].scores
    }
    results = {
        row: {t.name: figures_of(t, by_task[t.name]) for t in tasks} for row, by_task in scores.items()
    }
    print(table([_printed(row, by_task) for row, by_task in results.items()]))
    print()
    resampler = Resampler(data, options.draws)
    gains = {row: resampler.gain(scores[row], scores[REFERENCE]) for row in scores if row != REFERENCE}
    print(table([_gain_row(row, gain) for row, gain in gains.items()]))
    print()
    for one in measured:
        for row, by_task in one.chosen.items():
            if row in (REFERENCE, TUNED_HEAD, FUSED_HEAD):
                print(f"{row}: " + "; ".join(f"{name} {', '.join(c)}" for name, c in by_task.items()))
    print()
    print(table([_time_row(one) for one in measured]))
    if options.out_of_time:
        _report_out_of_time(measured, cache)
    print()
    print(table(cache.rows()))
    finish(_figures(results, gains, measured), _bars(results, gains, measured), options.json)


def _report_out_of_time(measured: Sequence[Measured], cache: ResultCache) -> None:
    for one in measured:
        if one.data.name == "online_retail":
            print("\nfitted at 2011-06-11, judged on the labels of 2011-09-09:\n")
            by_row = out_of_time(one.data, one.trained.loaded, cache, Silent())
            print(table([_printed(row, by_task) for row, by_task in (*by_row.items(), *OUT_OF_TIME.items())]))


def _mean(by_task: Mapping[str, Figures]) -> Figures:
    values = list(by_task.values())
    return Figures(float(np.mean([v.auc for v in values])), float(np.mean([v.ks for v in values])))


def _printed(row: str, by_task: Mapping[str, Figures]) -> dict[str, str]:
    every = {**by_task, "mean": _mean(by_task)}
    return {"AUC / KS": row, **{name: _pair(value) for name, value in every.items()}}


def _pair(value: Figures) -> str:
    """AUC and KS; only the AUC where no KS was published."""
    return f"{value.auc:.4f}" if np.isnan(value.ks) else f"{value.auc:.4f} / {value.ks:.3f}"


def _gain_row(row: str, gain: Gain) -> dict[str, str]:
    return {
        f"minus {REFERENCE}, mean over tasks": row,
        "AUC (95%)": f"{gain.auc.value:+.4f} ({gain.auc.low:+.4f} to {gain.auc.high:+.4f})",
        "KS (95%)": f"{gain.ks.value:+.4f} ({gain.ks.low:+.4f} to {gain.ks.high:+.4f})",
    }


def _time_row(one: Measured) -> dict[str, Any]:
    return {
        "data set": one.data.name,
        "pre-training, s": round(one.trained.seconds),
        "of CPU": round(one.trained.cpu_seconds),
        "CoLES (given), s": COLES_SECONDS[one.data.name],
        **{f"{row.removeprefix('linear probe, ')}, s": round(took) for row, took in one.peer_seconds.items()},
        "tuning, 5 folds, s": round(one.tune_seconds),
        "steps": one.trained.loaded.metadata["metrics"]["steps"],
        "parameters": one.trained.loaded.metadata["metrics"]["parameters"],
    }


def _figures(
    results: Mapping[str, Mapping[str, Figures]], gains: Mapping[str, Gain], measured: Sequence[Measured]
) -> dict[str, Any]:
    figures: dict[str, Any] = {
        f"{row}, {name}, {kind}": getattr(value, kind)
        for row, by_task in results.items()
        for name, value in {**by_task, "mean": _mean(by_task)}.items()
        for kind in ("auc", "ks")
    }
    for row, gain in gains.items():
        figures[f"{row}, gain"] = [
            *(gain.auc.value, gain.auc.low, gain.auc.high),
            *(gain.ks.value, gain.ks.low, gain.ks.high),
        ]
    return figures | {f"seconds, {one.data.name}": one.trained.seconds for one in measured}


def _bars(
    results: Mapping[str, Mapping[str, Figures]], gains: Mapping[str, Gain], measured: Sequence[Measured]
) -> list[Bar]:
    tasks = list(results[BASE])
    coles = float(np.mean([COLES[name].auc for name in tasks]))
    base, tuned = _mean(results[BASE]).auc, _mean(results[TUNED]).auc
    head, fused = gains[TUNED_HEAD], gains[FUSED_HEAD]
    worst = min(results[BASE][name].auc - results[UNTRAINED][name].auc for name in tasks)
    published = [COLES_SECONDS[one.data.name] for one in measured]
    # Both, because wall-clock time on a busy machine measures the other processes as well.
    clock = max(one.trained.seconds / took for one, took in zip(measured, published, strict=True))
    used = max(one.trained.cpu_seconds / took for one, took in zip(measured, published, strict=True))
    above = [
        Bar(
            f"{kind} probe above {row.removeprefix('linear probe, ')}, AUC",
            auc - _mean(results[row]).auc,
            0.0,
            "higher",
        )
        for row in measured[0].peer_seconds
        for kind, auc in (("base", base), ("tuned", tuned))
    ]
    return [
        Bar("base probe above CoLES' (given), AUC", base - coles, 0.005, "higher"),
        Bar("share of CoLES' training time (given), the larger one, clock", clock, 0.5, "lower"),
        Bar("the same, seconds of CPU", used, 0.5, "lower"),
        Bar("tuned probe above CoLES' (given), AUC", tuned - coles, 0.015, "higher"),
        Bar(
            "tuned probe above LightGBM on aggregates, AUC",
            tuned - _mean(results[TREES_ALONE]).auc,
            0.0,
            "higher",
        ),
        Bar("head on tuned above the reference, AUC", head.auc.value, -0.005, "higher"),
        Bar("head on tuned above the reference, KS", head.ks.value, -0.005, "higher"),
        Bar("fused head above the reference, AUC", fused.auc.value, 0.005, "higher"),
        Bar("fused head above the reference, KS", fused.ks.value, 0.010, "higher"),
        Bar("the same, AUC, lower end of its interval", fused.auc.low, 0.0, "higher"),
        Bar("the same, KS, lower end of its interval", fused.ks.low, 0.0, "higher"),
        Bar("base above untrained, the task where least, AUC", worst, 0.0, "higher"),
        *above,
    ]


if __name__ == "__main__":
    main()
