"""`qanchor-cli head explain`: the features and events behind one user's score."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer

from cli.output import JsonOption, print_json, print_table
from cli.scenarios import ScenarioOption
from cli.stages import working
from qanchor.site import Site


def explain(
    scenario: ScenarioOption,
    user: Annotated[str, typer.Option(metavar="USER_ID", help="User whose score is explained.")],
    as_of: Annotated[
        datetime | None,
        typer.Option(help="Moment of the features, UTC; default: that of the vectors in service."),
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
    from qanchor.times import as_utc

    site = Site.open()
    request = ExplainRequest(scenario, user, as_utc(as_of) if as_of else None, features, events)
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
