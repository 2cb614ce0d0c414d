"""`qanchor-cli promote`: puts waiting embeddings in service."""

from typing import Annotated

import typer

from cli.embedding.manifests import list_all, show_manifests
from cli.output import JsonOption, warn_of_old_name
from cli.scenarios import AllOption, OnlineOption, ScenariosOption, chosen
from cli.stages import progress
from qanchor.site import Site


def run(
    scenario: ScenariosOption = None,
    every: AllOption = False,
    listed: Annotated[
        bool, typer.Option("--list", help="The old name of `manifests list`.", hidden=True)
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Put in service even if a quality gate fails.")
    ] = False,
    online: OnlineOption = True,
    as_json: JsonOption = False,
) -> None:
    """Put waiting embeddings in service.

    Embeddings wait if they were written with --no-promote, were stopped by a gate, or were interrupted. The
    newest are taken. The offline store changes at once, the online store follows, then one row makes it
    official. The previous ones are kept for `qanchor-cli rollback`.

    Example: qanchor-cli promote --scenario takeout
    """
    if listed:
        warn_of_old_name("promote --list", "manifests list")
        list_all(scenario, as_json)
        return
    from qanchor.embedding.gates import describe_blocked, failed_gates, recorded_gates
    from qanchor.embedding.publish import promote
    from qanchor.errors import GatesFailed, NotReady
    from qanchor.registry.manifests import waiting_manifests

    site = Site.open()
    names = chosen(site.workspace, scenario, every)
    waiting = waiting_manifests(site.engine, names)
    if not waiting:
        raise NotReady(
            "no embeddings wait for promotion",
            "Run `qanchor-cli backfill`; `qanchor-cli manifests list` shows what there is.",
        )
    failed = {name: failed_gates(recorded_gates(manifest)) for name, manifest in waiting.items()}
    blocked = {name: results for name, results in failed.items() if results}
    if blocked and not force:
        raise GatesFailed(
            f"gates keep embeddings out of service: {describe_blocked(blocked)}",
            "Look into it, or add --force.",
        )
    with progress() as bar:
        promote(site, waiting, bar, online=online)
    show_manifests("In service", list(waiting.values()), as_json)
