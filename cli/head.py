"""`qanchor-cli head`: LightGBM heads over point-in-time features."""

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cli.context import Context, open_context
from cli.output import JsonOption, print_json, print_table, progress
from cli.scenarios import ScenariosOption, chosen

if TYPE_CHECKING:
    from qanchor.heads.card import HeadCard
    from qanchor.heads.train import Surroundings

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Train a LightGBM head; score users.")


class Features(StrEnum):
    """Feature groups a head may use."""

    embedding = "embedding"
    activity = "activity"
    all = "all"


class Store(StrEnum):
    """Where features are read for scoring."""

    online = "online"
    offline = "offline"


@app.callback()
def _group() -> None:
    """Train a LightGBM head; score users."""


@app.command()
def train(
    scenario: ScenariosOption = None,
    every: Annotated[bool, typer.Option("--all", help="Every scenario that has labels.")] = False,
    features: Annotated[list[Features] | None, typer.Option(help="Feature groups; repeatable.")] = None,
    test_fold: Annotated[int | None, typer.Option(help="Test on this fold instead of the highest.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed and rows give the same head.")] = 7,
    json: JsonOption = False,
) -> None:
    """Fit a head on the features as of each label's time, and measure it on the test part.

    Features: embedding is the scenario's vector; activity is the rolling aggregates with the profile;
    all, the default, is both. Beside the head, a linear probe on the embedding and the best head on
    aggregates alone are measured on the same rows. A head remembers the fingerprint of its vectors.

    Example: qanchor-cli head train --scenario takeout --features all
    """
    from qanchor.heads.fit import FitOptions
    from qanchor.heads.train import TrainOptions, train_head

    context = open_context()
    names = chosen(context.workspace, scenario, every, _with_labels(context) if every else None)
    around = _surroundings(context)
    fit = FitOptions(seed=seed, threads=context.settings.compute.threads)
    options = TrainOptions(_groups(features), test_fold, fit)
    with progress() as bar:
        cards = [train_head(name, around, options, bar) for name in names]
    if json:
        print_json([card.model_dump(mode="json") for card in cards])
    else:
        print_table("heads: AUC with its 95% interval on the test part", [_row(card) for card in cards])
        for card in cards:
            if card.without_embedding:
                rows = sum(card.rows.values())
                typer.echo(f"{card.scenario}: {card.without_embedding:,} of {rows:,} rows have no embedding")


def _groups(features: list[Features] | None) -> tuple[Literal["embedding", "activity"], ...]:
    asked = set(features or [Features.all])
    if Features.all in asked or len(asked) == 2:
        return ("embedding", "activity")
    return ("embedding",) if Features.embedding in asked else ("activity",)


def _with_labels(context: Context) -> list[str]:
    from qanchor.errors import NotReady

    names = [n for n in context.workspace.scenarios if (context.home.labels / f"{n}.parquet").exists()]
    if not names:
        raise NotReady("no scenario has labels", "Run `qanchor-cli labels load SCENARIO FILE`.")
    return names


def _surroundings(context: Context) -> "Surroundings":
    from qanchor.heads.train import Surroundings
    from qanchor.storage.features import FeatureRepository

    source = FeatureRepository(context.workspace, context.home)
    return Surroundings(source, context.home, context.engine, context.workspace)


def _row(card: "HeadCard") -> dict[str, Any]:
    head, none = card.metrics["head"], {"auc": None}
    return {
        "scenario": card.scenario,
        "positive": f"{head['positives']:,.0f}/{head['rows']:,.0f}",
        "AUC": head["auc"],
        "from": head["auc_low"],
        "to": head["auc_high"],
        "KS": head["ks"],
        "lift10": round(head["lift_10"], 2),
        "probe": card.metrics.get("probe", none)["auc"],
        "aggr.": card.metrics.get("aggregates", none)["auc"],
    }


@app.command()
def score(
    scenario: Annotated[str, typer.Option(help="A scenario with a head.")],
    users: Annotated[Path | None, typer.Option(help="Parquet or CSV with user_id, or .txt.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write user_id, score: .parquet, .csv or .json.")] = None,
    store: Annotated[Store, typer.Option("--from", help="The store to read features from.")] = Store.online,
    as_of: Annotated[datetime | None, typer.Option(help="Features as of then, UTC; default: now.")] = None,
    json: JsonOption = False,
) -> None:
    """Score users, or everybody with an embedding, with the scenario's head.

    Features come from the online store, or with --from offline from the offline store; either way only
    those that are fresh at --as-of count. Vectors of another embedding space than the head's are refused.

    Example: qanchor-cli head score --scenario takeout --users users.csv --out scores.parquet
    """
    from qanchor.heads.score import read_users, score_users, write_scores

    context = open_context()
    asked = read_users(users) if users else None
    moment = (as_of if as_of.tzinfo else as_of.replace(tzinfo=UTC)) if as_of else None
    where: Literal["online", "offline"] = "online" if store is Store.online else "offline"
    scored = score_users(scenario, _surroundings(context), asked, where, moment)
    if out:
        write_scores(scored.table, out)
    summary = {
        "scenario": scenario,
        "store": scored.store,
        "as_of": scored.moment.isoformat(timespec="seconds"),
        "users": scored.table.num_rows,
        "no_vector": scored.without_embedding,
        "out": str(out) if out else None,
    }
    best = scored.table.sort_by([("score", "descending"), ("user_id", "ascending")])
    if json:
        print_json(summary | ({} if out else {"scores": best.to_pylist()}))
        return
    print_table("scored", [summary])
    if not out:
        print_table("highest scores", best.slice(0, 20).to_pylist())
