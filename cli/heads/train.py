"""`qanchor-cli head train`: fit, measure and register heads."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cli.groups import with_options
from cli.output import JsonOption, print_json, print_table
from cli.scenarios import ScenariosOption, chosen
from cli.stages import recorded_progress
from qanchor.site import Site

if TYPE_CHECKING:
    from qanchor.heads.train import TrainedHead, TrainOptions


class Features(StrEnum):
    """Feature groups a head may use."""

    embedding = "embedding"
    activity = "activity"
    all = "all"


@dataclass(frozen=True, kw_only=True)
class FitFlags:
    """How a head is fitted; every field is an option."""

    features: Annotated[
        list[Features] | None, typer.Option(help="Group of features; repeatable. Default: all.")
    ] = None
    split: Annotated[
        Literal["fold", "time", "user"],
        typer.Option(
            help="What divides the rows: the labels' fold or split column, time, or a hash of the user."
        ),
    ] = "fold"
    test_fold: Annotated[int | None, typer.Option(help="Fold of the test part; default: the highest.")] = None
    search_seconds: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Time to search for better parameters.")
    ] = 0.0
    seeds: Annotated[int, typer.Option(min=1, max=50, help="Number of boosters to average.")] = 1
    class_weight: Annotated[
        Literal["root", "balanced", "none"], typer.Option(help="Weight of rows with label 1.")
    ] = "root"
    calibration: Annotated[
        Literal["auto", "sigmoid", "isotonic"],
        typer.Option(help="Calibration curve; auto: the better one by cross-fitted log loss."),
    ] = "auto"
    monotone: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FEATURE=+1|-1",
            help="Feature with which the score never falls (+1) or never rises (-1); repeatable.",
        ),
    ] = None
    promote_now: Annotated[bool, typer.Option("--promote", help="Make this head the champion at once.")] = (
        False
    )
    seed: Annotated[int, typer.Option(help="Seed; the same seed and rows give the same head.")] = 7

    def options(self, threads: int) -> "TrainOptions":
        """The options of the library.

        Args:
            threads: LightGBM's threads; 0: all cores.

        Raises:
            InputError: a constraint is not FEATURE=+1 or FEATURE=-1.
        """
        from qanchor.heads.fit import FitOptions
        from qanchor.heads.train import TrainOptions

        fit = FitOptions(
            seed=self.seed,
            threads=threads,
            class_weight=self.class_weight,
            seeds=self.seeds,
            search_seconds=self.search_seconds,
            calibration=self.calibration,
            monotone=_constraints(self.monotone or []),
        )
        return TrainOptions(_groups(self.features), self.test_fold, fit, self.split, self.promote_now)


@with_options(FitFlags)
def train(
    *,
    scenario: ScenariosOption = None,
    every: Annotated[bool, typer.Option("--all", help="All scenarios with labels.")] = False,
    flags: FitFlags,
    as_json: JsonOption = False,
) -> None:
    """Train a head on features as of each label's time.

    It is measured on the test part. Features: embedding is the scenario's vector; activity is the rolling
    aggregates with the profile; all, the default, is both. A linear probe on the embedding and the best head
    on aggregates alone are measured on the same rows. A head stores the fingerprint of its vectors and its
    training frame.

    The first head of a scenario is its champion, which scores users. A later one is a challenger until
    `head promote`, unless the champion reads vectors of another space and so can no longer score.

    Example: qanchor-cli head train --scenario takeout --features all --search-seconds 60 --seeds 5
    """
    from qanchor.heads.train import train_head

    site = Site.open()
    names = chosen(site.workspace, scenario, every, _with_labels(site) if every else None)
    options = flags.options(site.settings.compute.threads)
    parameters = {
        "scenarios": names,
        "features": list(options.groups),
        "split": flags.split,
        "seed": flags.seed,
    }
    with recorded_progress(site, "head train", parameters) as job:
        heads = []
        for name in names:
            heads.append(train_head(site, name, options, job))
            job.made.append(f"head {heads[-1].card.version} of {name}")
    if as_json:
        print_json([head.card.model_dump(mode="json") | {"champion": head.champion} for head in heads])
        return
    print_table("heads: AUC with its 95% interval on the test part", [_row(head) for head in heads])
    for head in heads:
        for line in _remarks(head):
            typer.echo(line)


def _constraints(texts: list[str]) -> dict[str, int]:
    from qanchor.errors import InputError

    directions = {}
    for text in texts:
        name, _, direction = text.partition("=")
        if direction not in ("1", "+1", "-1"):
            raise InputError(
                f"--monotone {text!r} is not FEATURE=+1 or FEATURE=-1",
                "Write it like --monotone act_bill_count_30d=+1.",
            )
        directions[name] = int(direction)
    return directions


def _groups(features: list[Features] | None) -> tuple[Literal["embedding", "activity"], ...]:
    groups = set(features or [Features.all])
    if Features.all in groups or len(groups) == 2:
        return ("embedding", "activity")
    return ("embedding",) if Features.embedding in groups else ("activity",)


def _with_labels(site: Site) -> list[str]:
    from qanchor.errors import NotReady

    names = [n for n in site.workspace.scenarios if (site.home.labels / f"{n}.parquet").exists()]
    if not names:
        raise NotReady("no scenario has labels", "Run `qanchor-cli labels load SCENARIO FILE`.")
    return names


def _row(trained: "TrainedHead") -> dict[str, Any]:
    card = trained.card
    head, none = card.metrics["head"], {"auc": None}
    return {
        "scenario": card.scenario,
        "role": "champion" if trained.champion else "challenger",
        "positive": f"{head['positives']:,.0f}/{head['rows']:,.0f}",
        "AUC": head["auc"],
        "from": head["auc_low"],
        "to": head["auc_high"],
        "KS": head["ks"],
        "lift10": round(head["lift_10"], 2),
        "ECE": head["ece"],
        "probe": card.metrics.get("probe", none)["auc"],
        "aggr.": card.metrics.get("aggregates", none)["auc"],
    }


def _remarks(trained: "TrainedHead") -> list[str]:
    card, lines = trained.card, []
    rows = sum(card.rows.values())
    if card.without_embedding:
        lines.append(f"{card.without_embedding:,} of {rows:,} rows have no embedding")
    for view, count in card.stale.items():
        lines.append(
            f"warning: {count:,} of {rows:,} rows have features of {view} that are more than a day older than"
            f" the label; run `qanchor-cli backfill --scenario {card.scenario} --at-labels`"
        )
    for reason, count in card.split.left_out.items():
        lines.append(f"{count:,} labelled rows are left out: {reason.replace('_', ' ')}")
    for column, values in card.unseen.items():
        lines.append(
            f"column {column}: {sum(values.values()):,} valid or test rows hold a value that training lacks"
        )
    flagged = [row for row in card.segments if row["flags"]]
    lines += [f"segment {row['feature']} = {row['value']}: {', '.join(row['flags'])}" for row in flagged[:5]]
    if not trained.champion:
        lines.append(
            f"a challenger: see `qanchor-cli head compare --scenario {card.scenario}`, "
            f"take it with `qanchor-cli head promote --scenario {card.scenario}`"
        )
    return [f"{card.scenario}: {line}" for line in lines]
