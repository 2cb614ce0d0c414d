"""`qanchor-cli head explain`: why one user has their score."""

from dataclasses import asdict
from datetime import UTC, datetime
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

    Contributions are SHAP values of the raw score, in log-odds before calibration; with the base they add up
    to it. Events are measured: each is left out of the history, vector and aggregates are computed again, and
    the effect is what the raw score loses. Effects do not add up; which events move the score most together
    is searched for among the strongest by effect and by gradient times input.

    Example: qanchor-cli head explain --scenario takeout --user u000042
    """
    from qanchor.explain.user_score import ExplainRequest, explain_user

    site = Site.open()
    moment = (as_of if as_of.tzinfo else as_of.replace(tzinfo=UTC)) if as_of else None
    request = ExplainRequest(scenario, user, moment, features, events)
    with working("explaining the score"):
        found = explain_user(site, request)
    if as_json:
        print_json(asdict(found))
        return
    typer.echo(
        f"{scenario}: {user} scores {found.score:.4f} as of {found.as_of:%Y-%m-%d %H:%M} UTC "
        f"(raw {found.raw:+.3f}, of which base {found.base:+.3f})"
    )
    print_table("groups", [{"group": k, "moves by": _signed(v)} for k, v in found.groups.items()])
    rows = [row | {"contribution": _signed(row["contribution"])} for row in found.features]
    print_table("aggregates and profile", rows)
    if found.recomputed is None:
        return
    print_table("events that raised the score", [_event(row) for row in found.raised])
    print_table("events that lowered the score", [_event(row) for row in found.lowered])
    if found.together_effect:
        print_table(
            f"{len(found.together)} events that move the score most together: "
            f"{_signed(found.together_effect)}",
            [_event(row) for row in found.together],
        )
    elif found.together:
        typer.echo(f"no {len(found.together)} events were found that move the score together")
    if abs(found.recomputed - found.raw) > 1e-6:
        typer.echo(
            f"the events before that moment give {found.recomputed:+.3f}: the stored features are of an "
            "earlier one"
        )


def _signed(value: float) -> str:
    return f"{value:+.4f}"


def _event(row: dict[str, Any]) -> dict[str, Any]:
    fields = ", ".join(f"{name} {value}" for name, value in row["fields"].items())
    return {
        "moves by": _signed(row["effect"]),
        "time": f"{row['event_time']:%Y-%m-%d %H:%M}",
        "modality": row["modality"],
        "event": fields,
    }
