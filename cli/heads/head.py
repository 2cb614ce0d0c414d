"""`qanchor-cli head`: LightGBM heads over point-in-time features."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.groups import command_group
from cli.heads.head_audit import compare, list_all, promote, refit
from cli.heads.head_explain import explain
from cli.heads.train import train
from cli.output import JsonOption, print_json, print_table
from cli.scenarios import OutOption, ScenarioOption, UsersOption
from cli.stages import working
from qanchor.site import Site

if TYPE_CHECKING:
    pass

app = command_group("head", "Train, compare and explain LightGBM heads; score users.")
app.command()(train)


@app.command()
def score(
    scenario: ScenarioOption,
    users: UsersOption = None,
    out: OutOption = None,
    store: Annotated[
        Literal["online", "offline"], typer.Option("--from", help="Store to read features from.")
    ] = "online",
    as_of: Annotated[datetime | None, typer.Option(help="Moment of the features, UTC; default: now.")] = None,
    unseen: Annotated[
        Literal["refuse", "missing"],
        typer.Option(help="Categories that training did not have: refuse them, or score them as missing."),
    ] = "refuse",
    publish: Annotated[
        bool, typer.Option("--publish", help="Write the scores to the offline and online stores as features.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Score users with the scenario's champion.

    Without --users all users with an embedding are scored. Features come from the online store, or with
    --from offline from the offline store; either way only those that are fresh at --as-of count. Vectors of
    another embedding space than the head's are refused. With --publish the scores become rows of the view
    user_score_SCENARIO, which Feast serves and joins.

    Example: qanchor-cli head score --scenario takeout --users users.csv --out scores.parquet
    """
    from qanchor.heads.score import ScoreRequest, publish_scores, score_users
    from qanchor.times import as_utc
    from qanchor.user_files import read_user_list, write_result

    site = Site.open()
    listed = list(dict.fromkeys(read_user_list(users))) if users else None
    request = ScoreRequest(listed, store, as_utc(as_of) if as_of else None, unseen)
    with working("scoring users"):
        scored = score_users(site, scenario, request)
    if out:
        write_result(scored.table, out)
    if publish:
        publish_scores(site, scenario, scored)
    summary = {
        "scenario": scenario,
        "head": scored.head,
        "store": scored.store,
        "as_of": scored.moment,
        "users": scored.table.num_rows,
        "no_vector": scored.without_embedding,
        "out": str(out) if out else None,
        "published": publish,
    }
    best = scored.table.sort_by([("score", "descending"), ("user_id", "ascending")])
    if as_json:
        print_json(summary | ({} if out else {"scores": best.to_pylist()}))
        return
    print_table("scored", [summary])
    if not out:
        print_table("highest scores", best.slice(0, 20).to_pylist())


app.command()(compare)
app.command()(promote)
app.command()(refit)
app.command("list")(list_all)
app.command()(explain)
