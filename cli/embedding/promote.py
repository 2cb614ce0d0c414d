"""`qanchor-cli promote`: puts waiting embeddings in service."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.output import JsonOption, print_rows
from cli.scenarios import AllOption, OnlineOption, ScenariosOption, chosen
from cli.stages import progress
from qanchor.site import Site

if TYPE_CHECKING:
    from qanchor.registry.tables import EmbeddingManifest


def run(
    scenario: ScenariosOption = None,
    every: AllOption = False,
    listed: Annotated[
        bool, typer.Option("--list", help="List the stored manifests, and change nothing.")
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
    from qanchor.embedding.gates import describe_blocked, failed_gates, recorded_gates
    from qanchor.embedding.publish import promote
    from qanchor.errors import GatesFailed, NotReady
    from qanchor.registry.manifests import kept_manifests, waiting_manifests

    site = Site.open()
    if listed:
        names = chosen(site.workspace, scenario, every or not scenario)
        kept = [m for name in names for m in kept_manifests(site.engine, name)]
        _show("Manifests", kept, as_json)
        return
    names = chosen(site.workspace, scenario, every)
    waiting = waiting_manifests(site.engine, names)
    if not waiting:
        raise NotReady(
            "no embeddings wait for promotion",
            "Run `qanchor-cli backfill`; `qanchor-cli promote --list` shows what there is.",
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
    _show("In service", list(waiting.values()), as_json)


def _show(title: str, manifests: "list[EmbeddingManifest]", as_json: bool) -> None:
    from qanchor.embedding.gates import failed_gates, recorded_gates

    rows: list[dict[str, Any]] = [
        {
            "scenario": manifest.scenario,
            "manifest": manifest.id,
            "state": manifest.state,
            "vectors": manifest.rows,
            "width": manifest.width,
            "as_of": manifest.as_of,
            "model": manifest.model_version,
            "space": manifest.fingerprint[:6],
            "failed_gates": [str(gate) for gate in failed_gates(recorded_gates(manifest))],
        }
        for manifest in manifests
    ]
    print_rows(title, rows, as_json, "there are no embeddings yet")
