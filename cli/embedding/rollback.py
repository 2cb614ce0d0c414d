"""`qanchor-cli rollback`: back to the embeddings that served before."""

import typer

from cli.output import JsonOption, print_json, print_table
from cli.scenarios import AllOption, OnlineOption, ScenariosOption, chosen
from cli.stages import progress
from qanchor.site import Site


def run(
    scenario: ScenariosOption = None,
    every: AllOption = False,
    online: OnlineOption = True,
    as_json: JsonOption = False,
) -> None:
    """Put the previous embeddings back in service.

    The present ones are kept, so that a second rollback returns to them. If the previous ones are of an
    earlier moment, the online store deletes the scenario's rows first, because it never replaces a newer row
    by an older one: for seconds its users are unknown there.

    Example: qanchor-cli rollback --scenario takeout
    """
    from qanchor.embedding.publish import promote, rollback_target
    from qanchor.registry.versions import active_model

    site = Site.open()
    names = chosen(site.workspace, scenario, every)
    targets = {name: rollback_target(site, name) for name in names}
    with progress() as bar:
        promote(site, targets, bar, online=online)
    rows = [
        {
            "scenario": name,
            "manifest": manifest.id,
            "vectors": manifest.rows,
            "as_of": manifest.as_of,
            "model": manifest.model_version,
        }
        for name, manifest in targets.items()
    ]
    if as_json:
        print_json(rows)
        return
    print_table("In service again", rows)
    newer = active_model(site.engine).version
    if any(manifest.model_version != newer for manifest in targets.values()):
        typer.echo(f"the next backfill embeds with the active model, {newer}")
    typer.echo(f"next    qanchor-cli index build --scenario {names[0]}")
