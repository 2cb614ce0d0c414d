"""`qanchor-cli head`: LightGBM heads over point-in-time features."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

import typer

from cli.groups import command_group
from cli.heads.head_audit import compare, list_all, promote, refit
from cli.heads.train import train
from cli.output import JsonOption, print_json, print_table
from cli.scenarios import OutOption, ScenarioOption, UsersOption
from cli.stages import working
from qanchor.site import Site

app = command_group("head", "Train, compare and explain LightGBM heads; score users.")
app.command()(train)
app.command()(compare)
app.command()(promote)
app.command()(refit)
app.command("list")(list_all)


@app.command()
def score(
    scenario: ScenarioOption,
    users: UsersOption = None,
    out: OutOption = None,
    store: Annotated[
        Literal["online", "offline"], typer.Option("--from", help="Store to read features from.")
    ] = "online",
    as_of: Annotated[
        str | None, typer.Option(metavar="DATE", help="Moment of the features, UTC; default: now.")
    ] = None,
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
    from qanchor.times import read_moment
    from qanchor.user_files import read_user_list, write_result

    site = Site.open()
    listed = list(dict.fromkeys(read_user_list(users))) if users else None
    request = ScoreRequest(listed, store, None if as_of is None else read_moment(as_of, "--as-of"), unseen)
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


@app.command()
def explain(
    scenario: ScenarioOption,
    user: Annotated[str, typer.Option(metavar="USER_ID", help="User whose score is explained.")],
    as_of: Annotated[
        str | None,
        typer.Option(
            metavar="DATE", help="Moment of the features, UTC; default: that of the vectors in service."
        ),
    ] = None,
    features: Annotated[int, typer.Option(min=0, help="Number of features to show.")] = 10,
    events: Annotated[
        int, typer.Option(min=0, max=20, help="Number of events to show for each direction; 0: none.")
    ] = 5,
    as_json: JsonOption = False,
) -> None:
    """Show which features and events move a user's score.

    Contributions are SHAP values of the raw score, in log-odds before calibration; base and contributions sum
    to it. The effect of an event is measured: it is left out of the history, vector and aggregates are
    computed again, and the raw score is compared. Effects do not sum: the events with the largest joint
    effect are searched for among the strongest by effect and by gradient times input.

    Example: qanchor-cli head explain --scenario takeout --user u000042
    """
    from qanchor.explain.user_score import ExplainRequest, explain_user
    from qanchor.times import read_moment

    site = Site.open()
    request = ExplainRequest(
        scenario, user, None if as_of is None else read_moment(as_of, "--as-of"), features, events
    )
    with working("explaining the score"):
        explanation = explain_user(site, request)
    if as_json:
        print_json(asdict(explanation))
        return
    typer.echo(
        f"{scenario}: {user} scores {explanation.score:.4f} as of {explanation.as_of:%Y-%m-%d %H:%M} UTC "
        f"(raw {explanation.raw:+.3f}, of which base {explanation.base:+.3f})"
    )
    print_table("groups", [{"group": k, "contribution": _signed(v)} for k, v in explanation.groups.items()])
    rows = [row | {"contribution": _signed(row["contribution"])} for row in explanation.features]
    print_table("aggregates and profile", rows)
    if explanation.recomputed is None:
        return
    print_table("events that raised the score", [_event(row) for row in explanation.raised])
    print_table("events that lowered the score", [_event(row) for row in explanation.lowered])
    if explanation.together_effect:
        print_table(
            f"{len(explanation.together)} events with the largest joint effect: "
            f"{_signed(explanation.together_effect)}",
            [_event(row) for row in explanation.together],
        )
    elif explanation.together:
        typer.echo(f"no {len(explanation.together)} events move the score together")
    if abs(explanation.recomputed - explanation.raw) > 1e-6:
        typer.echo(
            f"the events before that time give {explanation.recomputed:+.3f}: the stored features are older"
        )


def _signed(value: float) -> str:
    return f"{value:+.4f}"


def _event(row: dict[str, Any]) -> dict[str, Any]:
    fields = ", ".join(f"{name} {value}" for name, value in row["fields"].items())
    return {
        "effect": _signed(row["effect"]),
        "time": f"{row['event_time']:%Y-%m-%d %H:%M}",
        "modality": row["modality"],
        "event": fields,
    }
