"""`qanchor-cli scenarios`: the scenarios of scenarios.yaml, and what their queries attend to."""

from cli.evaluate import explain
from cli.groups import command_group
from cli.output import JsonOption, print_rows
from qanchor.site import Site

app = command_group("scenarios", "List scenarios; show what their queries attend to.")
app.command("explain")(explain.run)


@app.command("list")
def list_all(as_json: JsonOption = False) -> None:
    """List the scenarios of scenarios.yaml with their queries.

    Example: qanchor-cli scenarios list
    """
    scenarios = Site.open().workspace.scenarios
    rows = [
        {
            "scenario": name,
            "domain": spec.domain,
            "horizon_days": spec.horizon_days,
            "ttl_days": spec.ttl_days,
            "query": spec.query,
        }
        for name, spec in scenarios.items()
    ]
    print_rows("scenarios", rows, as_json)
