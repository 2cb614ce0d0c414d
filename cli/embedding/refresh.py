"""`qanchor-cli refresh`: new vectors for users whose history has changed, once or again and again."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.embedding.backfill import moment_of
from cli.output import JsonOption, print_json, print_table
from cli.scenarios import AllOption, ScenariosOption, chosen
from cli.stages import progress
from cli.watch import run_until_signal
from qanchor.site import Site

if TYPE_CHECKING:
    from prometheus_client import Gauge

    from qanchor.embedding.refresh import RefreshRequest, ScenarioRefresh

_SHOWN_ASIDE = 10


def run(
    scenario: ScenariosOption = None,
    every: AllOption = False,
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", metavar="DATE", help="Cut-off, UTC; default: just after the newest event."),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Largest change that may wait; default: refresh_budget of scenarios.yaml."
        ),
    ] = None,
    expired: Annotated[
        bool, typer.Option("--expired", help="Include users whose events have only expired.")
    ] = False,
    online: Annotated[
        bool, typer.Option("--online/--no-online", help="Whether the online store is updated as well.")
    ] = True,
    index: Annotated[
        bool, typer.Option("--index/--no-index", help="Whether existing indexes are updated as well.")
    ] = True,
    watch: Annotated[
        float | None, typer.Option(min=1, metavar="SECONDS", help="Repeat every N seconds until SIGTERM.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", help="With --watch: serve Prometheus metrics on this port of 127.0.0.1."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Embed again the users whose history has changed.

    New and late events count; with --expired also events that have left the window, which nearly every active
    user has after a day. A change within the budget waits until it has grown; a user's change is always
    measured against the vector in service. New vectors go to the offline store, the online store and the
    index under a new manifest.

    Example: qanchor-cli refresh --all --watch 300
    """
    from qanchor.embedding.refresh import RefreshRequest
    from qanchor.embedding.spaces import settled_precision
    from qanchor.errors import InputError
    from qanchor.registry.manifests import active_manifests

    site = Site.open()
    if watch is not None and as_of is not None:
        raise InputError("--watch follows the newest event, so --as-of means nothing", "Give one of them.")
    ready = list(active_manifests(site.engine, list(site.workspace.scenarios)))
    names = chosen(site.workspace, scenario, every, ready)
    if not names:
        raise InputError("no scenario has embeddings yet", "Run `qanchor-cli backfill --all`.")
    precision = settled_precision(site.settings.compute)
    request = RefreshRequest(names, moment_of(as_of), budget, online, expired, precision)
    if watch is None:
        _show(_refresh(site, request, index), as_json)
    else:
        _watch(site, request, index, watch, metrics_port, as_json)


def _refresh(site: Site, request: "RefreshRequest", index: bool) -> "dict[str, ScenarioRefresh]":
    from qanchor.embedding.refresh import refresh
    from qanchor.registry.tables import IndexVersion
    from qanchor.registry.versions import active_by_scenario

    try:
        with progress() as bar:
            result = refresh(site, request, bar)
    finally:
        site.features.close()
    if index:
        from qanchor.audience.index import update_scenario_index

        for name in active_by_scenario(site.engine, IndexVersion, list(result)):
            update_scenario_index(site, name)
    return result


def _watch(
    site: Site,
    request: "RefreshRequest",
    index: bool,
    seconds: float,
    metrics_port: int | None,
    as_json: bool,
) -> None:
    gauges = _gauges(metrics_port)

    def step() -> None:
        result = _refresh(site, request, index)
        _note(result, gauges)
        if any(scenario.embedded for scenario in result.values()):
            _show(result, as_json)

    run_until_signal(step, seconds)


def _gauges(port: int | None) -> "dict[str, Gauge]":
    if port is None:
        return {}
    from prometheus_client import CollectorRegistry, Gauge

    from qanchor.metrics_server import MetricsServer

    registry = CollectorRegistry()
    texts = {
        "as_of_timestamp_seconds": "Moment up to which a scenario's users are known",
        "staleness_seconds": "How long ago that is",
        "pending_users": "Users whose change lies within the budget",
        "largest_pending_change": "The greatest change that was left, 0 to 1",
        "refreshed_users": "Users that the last refresh embedded",
    }
    gauges = {
        name: Gauge(f"qanchor_embedding_{name}", text, ["scenario"], registry=registry)
        for name, text in texts.items()
    }
    MetricsServer(port, registry)
    return gauges


def _note(result: "Mapping[str, ScenarioRefresh]", gauges: "Mapping[str, Gauge]") -> None:
    from qanchor.embedding.refresh import staleness_seconds

    for name, found in result.items() if gauges else ():
        age = staleness_seconds(found.manifest)
        values = {
            "as_of_timestamp_seconds": time.time() - age,
            "staleness_seconds": age,
            "pending_users": found.pending,
            "largest_pending_change": found.largest_pending,
            "refreshed_users": found.embedded,
        }
        for gauge, value in values.items():
            gauges[gauge].labels(name).set(value)


def _show(result: "Mapping[str, ScenarioRefresh]", as_json: bool) -> None:
    rows: list[dict[str, Any]] = [
        {
            "scenario": name,
            "changed": found.touched,
            "embedded": found.embedded,
            "pending": found.pending,
            "largest_pending": round(found.largest_pending, 4),
            "manifest": found.manifest.id,
            "as_of": found.manifest.as_of,
        }
        for name, found in result.items()
    ]
    aside = {user: reason for found in result.values() for user, reason in found.set_aside.items()}
    for user, reason in list(aside.items())[:_SHOWN_ASIDE]:
        typer.echo(f"warning: set aside {user}: {reason}", err=True)
    if as_json:
        print_json({"scenarios": rows, "set_aside": aside})
    else:
        print_table("Refreshed", rows)
