"""The value of each part of the method: the paper's tables 3, 9 and 10, and ours on a simulated world.

    qanchor-cli simulate --users 1500 --out world
    python -m benchmarks.ablations world [--kept FOLDER] [--only NAME ...] [--quick] [--json FILE]

Every ablation changes one setting of `PretrainConfig` or `TuneConfig`, and all have the same seed. Linear
probes (logistic regression, its strength chosen on the valid part, fitted on the train part) on users and
times outside training; means over scenarios, differences with a paired bootstrap interval over test users.
Results are stored in a folder, one file per ablation: a run after an interruption measures the missing ones.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.ablations_noise import difference
from benchmarks.ablations_run import Measured, Run
from benchmarks.harness import Bar, arguments, finish, table
from qanchor.training.objective import NO_MARGIN
from qanchor.training.pretrain_config import PretrainConfig
from qanchor.training.tune import TuneConfig

FULL = "full"
Paper = tuple[float, float | None] | None  # AUC and KS
NESTED = "nested widths 32, 64 (ours)"
UNTRAINED = "without pre-training"
# The changed settings of pre-training, and the paper's average AUC and KS.
# The most important ones are measured first; `full` with other seeds shows the effect of the seed.
PRETRAINING: dict[str, tuple[dict[str, Any], Paper]] = {
    FULL: ({}, (0.8104, 0.5044)),
    UNTRAINED: ({"steps": 0}, None),
    "without contrastive loss": ({"contrastive_weight": 0.0}, (0.7667, 0.4215)),
    "contrastive loss weighed 1 (the paper's)": ({"contrastive_weight": 1.0}, None),
    "without both tokens": ({"user_token": False, "modality_tokens": False}, (0.8065, 0.4966)),
    "full, seed 1": ({"seed": 1}, None),
    "without next-token loss": ({"next_token_weight": 0.0}, (0.8061, 0.4961)),
    "without margin mask": ({"margin": NO_MARGIN}, (0.8047, 0.4877)),
    "without summary loss (ours)": ({"summary_weight": 0.0}, None),
    "without summary and contrastive loss": ({"summary_weight": 0.0, "contrastive_weight": 0.0}, None),
    NESTED: ({"widths": (32, 64)}, None),
    "without user token": ({"user_token": False}, (0.8086, 0.5002)),
    "without modality tokens": ({"modality_tokens": False}, (0.8088, 0.5008)),
    "full, seed 2": ({"seed": 2}, None),
}
# The changed settings of prompt tuning, and the model; the first row of a table is the baseline.
# Tokens are compared after `--token-steps` steps, steps with six tokens.
TOKENS: dict[str, tuple[dict[str, Any], str, Paper]] = {
    "6 tokens": ({}, FULL, (0.8225, 0.5267)),
    "1 token": ({"tokens": 1}, FULL, (0.8146, None)),
    "2 tokens": ({"tokens": 2}, FULL, (0.8169, None)),
    "4 tokens": ({"tokens": 4}, FULL, (0.8201, None)),
    "8 tokens": ({"tokens": 8}, FULL, (0.8205, None)),
    "16 tokens": ({"tokens": 16}, FULL, (0.8215, None)),
    "without geometry loss (ours)": ({"geometry_weight": 0.0}, FULL, None),
    "tuned without pre-training": ({}, UNTRAINED, (0.7782, 0.4679)),
}
STEPS: dict[str, tuple[dict[str, Any], str, Paper]] = {
    f"{steps} steps": ({"steps": steps}, FULL, (0.8225, 0.5267) if steps == 500 else None)
    for steps in (500, 400, 300, 200, 100)
}


def main() -> None:
    """Measure the missing ablations, and print all of them."""
    options = _options()
    pretraining = PretrainConfig(steps=options.steps, points=options.points, seed=options.seed)
    # No early stopping: an ablation of the steps has to make every step.
    tuning = TuneConfig(seed=options.seed, batch=options.batch, patience=10_000, check_every=100)
    run = Run(options.world, options.repo, options.kept, options.tuned, options.train_rows)
    selected = set(options.only or (*PRETRAINING, *TOKENS, *STEPS))
    if options.quick and not options.only:
        selected = {FULL, "without both tokens", "without contrastive loss", "6 tokens", "1 token"}
    fewer = replace(tuning, steps=options.token_steps)
    for name, (changes, _) in PRETRAINING.items():
        config = replace(pretraining, **changes)
        if name in selected:
            run.pretrained(name, config, narrow=name in (FULL, NESTED))
        # Here, because the model and its prefixes are in memory.
        for tuned, (settings, model, _) in (TOKENS | STEPS).items():
            if model == name and tuned in selected:
                run.tuned(tuned, name, config, replace(fewer if tuned in TOKENS else tuning, **settings))
    measured = run.measured()
    _print(measured)
    figures = {f"{name}_{key}": value for name, row in measured.items() for key, value in row.means.items()}
    finish(figures, _bars(measured), options.json)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__ or "")
    parser.add_argument("world", type=Path, help="folder with events.parquet, labels/ and ceilings.json")
    parser.add_argument(
        "--repo", type=Path, default=Path("feature_repo"), help="feature repository of the world"
    )
    parser.add_argument(
        "--kept", type=Path, default=Path("benchmarks/results/ablations"), help="folder of the results"
    )
    parser.add_argument("--only", action="append", metavar="NAME", help="an ablation; repeatable")
    parser.add_argument("--steps", type=int, default=300, help="steps of pre-training")
    parser.add_argument("--points", type=int, default=64, help="users at a cut-off in a batch")
    parser.add_argument(
        "--token-steps", type=int, default=150, help="steps of tuning, where tokens are compared"
    )
    parser.add_argument("--batch", type=int, default=64, help="users in a step of tuning")
    parser.add_argument("--tuned", type=int, default=3, help="number of scenarios with tuning")
    parser.add_argument("--train-rows", type=int, default=3_000, help="training labels of probes and prompts")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _print(measured: dict[str, Measured]) -> None:
    tables: dict[str, dict[str, Paper]] = {
        "parts of pre-training; untuned": {name: row[1] for name, row in PRETRAINING.items()},
        "prompt tokens": {name: row[2] for name, row in TOKENS.items()},
        "steps of tuning": {name: row[2] for name, row in STEPS.items()},
    }
    for title, paper in tables.items():
        first = next(iter(paper))
        if first in measured:
            print(f"\n{title}\n")
            present = [name for name in paper if name in measured]
            print(table([_row(measured[name], measured[first], paper[name]) for name in present]))
    words = measured.get(FULL)
    if words and "zero-label" in words.means:
        print(f"\nzero-label, mean AUC: {words.means['zero-label']:.4f}")
    nested = measured.get(NESTED)
    if nested:
        widths = {key: value for key, value in nested.means.items() if key.startswith("width")}
        print("\nNested widths: mean AUC of the first numbers of every vector\n")
        print(table([{"trained": name, **row} for name, row in _by_width(measured, list(widths)).items()]))


def _by_width(measured: dict[str, Measured], widths: list[str]) -> dict[str, dict[str, float]]:
    shown = (FULL, NESTED)
    return {
        name: {width: measured[name].means[width] for width in widths} for name in shown if name in measured
    }


def _row(row: Measured, base: Measured, paper: Paper) -> dict[str, object]:
    gap = difference(row, base)
    return {
        "": row.name,
        "paper AUC": paper[0] if paper else "",
        "paper KS": (paper[1] or "") if paper else "",
        "ours AUC": row.means["auc"],
        "ours KS": row.means["ks"],
        "against the first": ""
        if row.name == base.name
        else f"{gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]",
        "s": row.seconds,
    }


def _bars(measured: dict[str, Measured]) -> list[Bar]:
    bars = []
    losses = [n for n in PRETRAINING if n.startswith("without") and PRETRAINING[n][1] and n in measured]
    if FULL in measured and "without contrastive loss" in losses and len(losses) > 1:
        cost = {name: measured[FULL].means["auc"] - measured[name].means["auc"] for name in losses}
        others = max(value for name, value in cost.items() if name != "without contrastive loss")
        most = cost["without contrastive loss"] - others
        bars.append(Bar("what leaving out the contrastive loss costs, above any other", most, 0.0, "higher"))
    if FULL in measured:
        bars.append(Bar("zero-label, mean AUC", measured[FULL].means["zero-label"], 0.65, "higher"))
    return bars


if __name__ == "__main__":
    main()
