"""`qanchor-cli doctor`: checks of the machine and the workspace, with remedies."""

from dataclasses import asdict

import typer

from cli.output import JsonOption, print_json

_COLOURS = {"ok": "green", "warn": "yellow", "missing": "red"}


def run(as_json: JsonOption = False) -> None:
    """Check the machine and the workspace.

    The exit code is 1 if something essential is missing.

    Example: qanchor-cli doctor
    """
    from consumers.broker_check import check_brokers
    from qanchor.diagnosis import diagnose
    from qanchor.site import Site

    findings = []
    for finding in diagnose(Site.open().settings, check_brokers=check_brokers):
        findings.append(finding)
        if not as_json:
            state = typer.style(f"{finding.state:<8}", fg=_COLOURS[finding.state], bold=True)
            typer.echo(f"{state}{finding.check:<15}{finding.value}")
            if finding.remedy:
                typer.echo(f"{'':23}-> {finding.remedy}")
    missing = [finding.check for finding in findings if finding.state == "missing"]
    if as_json:
        print_json({"healthy": not missing, "findings": [asdict(finding) for finding in findings]})
    elif missing:
        typer.echo(f"missing: {', '.join(missing)}")
    if missing:
        raise typer.Exit(1)
