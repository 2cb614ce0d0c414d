"""What each part of the method is worth: the paper's tables 3, 9 and 10 beside ours on a simulated world.

    qanchor-cli simulate --users 1500 --out world
    python -m benchmarks.ablations world [--kept FOLDER] [--only NAME ...] [--quick] [--json FILE]

Every ablation changes one setting of `PretrainConfig` or `TuneConfig`, and all have the same seed. Linear
probes (logistic regression, its strength chosen on the valid part, fitted on the train part) on test users
and times that no training saw; means over scenarios, differences with a paired bootstrap interval over test
users. What is measured is kept in a folder, one file for each
ablation: a run that was stopped goes on with those that are missing.
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
# One line each: what of pre-training is set otherwise. The figures are the paper's average AUC and KS.
# What matters most is measured first; `full` with other seeds says what a seed alone changes.
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
# Of prompt tuning, on the full model unless another is named; the first of a table is what the others are
# compared with. Tokens are compared after `--token-steps` steps, steps with six tokens.
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
    """Measure what is missing, and print what there is."""
    options = _options()
    pretraining = PretrainConfig(steps=options.steps, points=options.points, seed=options.seed)
    # Every step is made: an ablation of the steps must not be ended by the valid part.
    tuning = TuneConfig(seed=options.seed, batch=options.batch, patience=10_000, check_every=100)
    run = Run(options.world, options.repo, options.kept, options.tuned, options.train_rows)
    wanted = set(options.only or (*PRETRAINING, *TOKENS, *STEPS))
    if options.quick and not options.only:
        wanted = {FULL, "without both tokens", "without contrastive loss", "6 tokens", "1 token"}
    fewer = replace(tuning, steps=options.token_steps)
    for name, (changes, _) in PRETRAINING.items():
        own = replace(pretraining, **changes)
        if name in wanted:
            run.pretrained(name, own, narrow=name in (FULL, NESTED))
        # While the model and its prefixes are at hand.
        for tuned, (settings, model, _) in (TOKENS | STEPS).items():
            if model == name and tuned in wanted:
                run.tuned(tuned, name, own, replace(fewer if tuned in TOKENS else tuning, **settings))
    measured = run.measured()
    _print(measured)
    figures = {f"{name}_{key}": value for name, row in measured.items() for key, value in row.means.items()}
    finish(figures, _bars(measured), options.json)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__ or "")
    parser.add_argument("world", type=Path, help="folder with events.parquet, labels/ and ceilings.json")
    parser.add_argument("--repo", type=Path, default=Path("feature_repo"), help="its feature repository")
    parser.add_argument(
        "--kept", type=Path, default=Path("benchmarks/results/ablations"), help="what is kept"
    )
    parser.add_argument("--only", action="append", metavar="NAME", help="an ablation; may be given again")
    parser.add_argument("--steps", type=int, default=300, help="of pre-training")
    parser.add_argument("--points", type=int, default=64, help="users at a cut-off in a batch")
    parser.add_argument("--token-steps", type=int, default=150, help="of tuning, where tokens are compared")
    parser.add_argument("--batch", type=int, default=64, help="users in a step of tuning")
    parser.add_argument("--tuned", type=int, default=3, help="scenarios that tuning is measured on")
    parser.add_argument("--train-rows", type=int, default=3_000, help="labels that probes and prompts see")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _print(measured: dict[str, Measured]) -> None:
    tables: dict[str, dict[str, Paper]] = {
        "what pre-training is made of; untuned": {name: row[1] for name, row in PRETRAINING.items()},
        "prompt tokens": {name: row[2] for name, row in TOKENS.items()},
        "steps of tuning": {name: row[2] for name, row in STEPS.items()},
    }
    for title, paper in tables.items():
        first = next(iter(paper))
        if first in measured:
            print(f"\n{title}\n")
            there = [name for name in paper if name in measured]
            print(table([_row(measured[name], measured[first], paper[name]) for name in there]))
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


def _row(own: Measured, base: Measured, paper: Paper) -> dict[str, object]:
    gap = difference(own, base)
    return {
        "": own.name,
        "paper AUC": paper[0] if paper else "",
        "paper KS": (paper[1] or "") if paper else "",
        "ours AUC": own.means["auc"],
        "ours KS": own.means["ks"],
        "against the first": ""
        if own.name == base.name
        else f"{gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]",
        "s": own.seconds,
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
