"""`qanchor-cli refresh`: new vectors for users whose history has changed, once or repeatedly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from cli.embedding.backfill import warn_set_aside
from cli.groups import with_options
from cli.output import JsonOption, print_json, print_table
from cli.scenarios import AllOption, OnlineOption, ScenariosOption, chosen
from cli.stages import progress
from cli.watch import MetricsPortOption, WatchOption, run_until_signal
from qanchor.site import Site

if TYPE_CHECKING:
    from prometheus_client import Gauge

    from qanchor.embedding.refresh import RefreshRequest, ScenarioRefresh


@dataclass(frozen=True)
class RefreshOptions:
    """Which users are embedded again, and as of when."""

    as_of: Annotated[
        str | None, typer.Option(metavar="DATE", help="Cut-off, UTC; default: just after the newest event.")
    ] = None
    budget: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Largest change that may wait; default: refresh_budget of scenarios.yaml."
        ),
    ] = None
    expired: Annotated[
        bool, typer.Option("--expired", help="Include users whose events have only expired.")
    ] = False
    online: OnlineOption = True

    def request(self, scenarios: "Sequence[str]", precision: str) -> "RefreshRequest":
        """The request that the options describe.

        Raises:
            InputError: the date is invalid.
        """
        from qanchor.embedding.refresh import RefreshRequest
        from qanchor.times import read_moment

        as_of = None if self.as_of is None else read_moment(self.as_of, "--as-of")
        return RefreshRequest(scenarios, as_of, self.budget, self.online, self.expired, precision)


@with_options(RefreshOptions)
def run(
    scenario: ScenariosOption = None,
    every: AllOption = False,
    *,
    options: RefreshOptions,
    index: Annotated[
        bool, typer.Option("--index/--no-index", help="Whether existing indexes are updated as well.")
    ] = True,
    watch: WatchOption = None,
    metrics_port: MetricsPortOption = None,
    as_json: JsonOption = False,
) -> None:
    """Embed again the users whose history has changed.

    New and late events count; with --expired also events that have left the window, which nearly every active
    user has after a day. A change within the budget waits until it has grown; a user's change is always
    measured against the vector in service. New vectors go to the offline store, the online store and the
    index under a new manifest.

    Example: qanchor-cli refresh --all --watch 300
    """
    from qanchor.embedding.spaces import settled_precision
    from qanchor.errors import InputError
    from qanchor.registry.manifests import active_manifests

    site = Site.open()
    if watch is not None and options.as_of is not None:
        raise InputError("--watch follows the newest event, so --as-of means nothing", "Give one of them.")
    ready = list(active_manifests(site.engine, list(site.workspace.scenarios)))
    names = chosen(site.workspace, scenario, every, ready)
    if not names:
        raise InputError("no scenario has embeddings yet", "Run `qanchor-cli backfill --all`.")
    request = options.request(names, settled_precision(site.settings.compute))
    if watch is None:
        _show(_refresh(site, request, index), as_json)
        return
    gauges = {} if metrics_port is None else _served_gauges(metrics_port)

    def step() -> None:
        result = _refresh(site, request, index)
        for gauge, values in _values(result).items() if gauges else ():
            for name, value in values.items():
                gauges[gauge].labels(name).set(value)
        if any(one.embedded for one in result.values()):
            _show(result, as_json)

    run_until_signal(step, watch)


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


def _served_gauges(port: int) -> "dict[str, Gauge]":
    from prometheus_client import CollectorRegistry, Gauge

    from qanchor.metrics_server import MetricsServer

    texts = {
        "as_of_timestamp_seconds": "Cut-off of a scenario's newest vectors",
        "staleness_seconds": "Age of that cut-off",
        "pending_users": "Users whose change is within the budget",
        "largest_pending_change": "Largest change that was left, 0 to 1",
        "refreshed_users": "Users that the last refresh embedded",
    }
    registry = CollectorRegistry()
    gauges = {
        name: Gauge(f"qanchor_embedding_{name}", text, ["scenario"], registry=registry)
        for name, text in texts.items()
    }
    MetricsServer(port, registry)
    return gauges


def _values(result: "Mapping[str, ScenarioRefresh]") -> dict[str, dict[str, float]]:
    """Value of each gauge by scenario."""
    import time

    from qanchor.embedding.refresh import staleness_seconds

    now = time.time()
    ages = {name: staleness_seconds(one.manifest, now) for name, one in result.items()}
    return {
        "as_of_timestamp_seconds": {name: now - age for name, age in ages.items()},
        "staleness_seconds": ages,
        "pending_users": {name: one.pending for name, one in result.items()},
        "largest_pending_change": {name: one.largest_pending for name, one in result.items()},
        "refreshed_users": {name: one.embedded for name, one in result.items()},
    }


def _show(result: "Mapping[str, ScenarioRefresh]", as_json: bool) -> None:
    rows = [
        {
            "scenario": name,
            "changed": one.touched,
            "embedded": one.embedded,
            "pending": one.pending,
            "largest_pending": round(one.largest_pending, 4),
            "manifest": one.manifest.id,
            "as_of": one.manifest.as_of,
        }
        for name, one in result.items()
    ]
    aside = {user: reason for one in result.values() for user, reason in one.set_aside.items()}
    warn_set_aside(aside)
    if as_json:
        print_json({"scenarios": rows, "set_aside": aside})
    else:
        print_table("Refreshed", rows)
