"""`qanchor-cli manifests`: the stored embeddings."""

from typing import TYPE_CHECKING, Any

from cli.groups import command_group
from cli.output import JsonOption, print_rows
from cli.scenarios import ScenariosOption, chosen
from qanchor.site import Site

if TYPE_CHECKING:
    from qanchor.registry.tables import EmbeddingManifest

app = command_group("manifests", "List the stored embeddings and their quality gates.")


@app.command("list")
def list_all(scenario: ScenariosOption = None, as_json: JsonOption = False) -> None:
    """List stored embeddings, their state and the gates that failed.

    Example: qanchor-cli manifests list --scenario takeout
    """
    from qanchor.registry.manifests import kept_manifests

    site = Site.open()
    names = chosen(site.workspace, scenario, not scenario)
    show_manifests("Manifests", [m for name in names for m in kept_manifests(site.engine, name)], as_json)


def show_manifests(title: str, manifests: "list[EmbeddingManifest]", as_json: bool) -> None:
    """Print manifests as a table or as JSON."""
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
