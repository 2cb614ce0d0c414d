"""`qanchor-cli doctor`: checks of the machine and the workspace, with remedies."""

import re
import textwrap
from dataclasses import asdict

import typer

from cli.output import JsonOption, open_console, print_json

_COLOURS = {"ok": "green", "warn": "yellow", "missing": "red"}

_INDENT = 23
_NO_BREAK = "\u00a0"


def run(as_json: JsonOption = False) -> None:
    """Check the machine and the workspace.

    The exit code is 1 if something essential is missing.

    Example: qanchor-cli doctor
    """
    from consumers.broker_check import check_brokers
    from qanchor.diagnosis import diagnose
    from qanchor.site import Site

    findings, width = [], open_console().width
    for finding in diagnose(Site.open().settings, check_brokers=check_brokers):
        findings.append(finding)
        if not as_json:
            state = typer.style(f"{finding.state:<8}", fg=_COLOURS[finding.state], bold=True)
            value = _hanging(finding.value, _INDENT, width)
            typer.echo(f"{state}{finding.check:<15}{value}")
            if finding.remedy:
                typer.echo(f"{'':{_INDENT}}-> {_hanging(finding.remedy, _INDENT + 3, width)}")
    missing = [finding.check for finding in findings if finding.state == "missing"]
    if as_json:
        print_json({"healthy": not missing, "findings": [asdict(finding) for finding in findings]})
    elif missing:
        typer.echo(f"missing: {', '.join(missing)}")
    if missing:
        raise typer.Exit(1)


def _hanging(text: str, indent: int, width: int) -> str:
    """The text in lines below one another; words, such as paths, and commands stay whole."""
    whole = re.sub("`[^`]*`", lambda command: command[0].replace(" ", _NO_BREAK), text)
    lines = textwrap.wrap(whole, max(width - indent, 20), break_long_words=False, break_on_hyphens=False)
    return f"\n{'':{indent}}".join(lines).replace(_NO_BREAK, " ")
