"""`qanchor-cli report`: how good every scenario is, on one page."""

from pathlib import Path
from typing import Annotated

import typer

from cli.output import JsonOption, print_json, print_table
from cli.scenarios import ScenariosOption, chosen
from cli.stages import progress
from qanchor.site import Site


def run(
    scenario: ScenariosOption = None,
    every: Annotated[bool, typer.Option("--all", help="All scenarios with a head; the default.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="HTML file; default: reports/report.html in QANCHOR_HOME."),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            help="Whether attention, maps and untuned embeddings are included, which loads the model."
        ),
    ] = True,
    json: JsonOption = False,
) -> None:
    """Write the report of all scenarios, one HTML page.

    The page works offline; report.json, figures/*.png and scores/ are written next to it. It says in plain
    words how well every scenario's score works, then shows ROC, gain, lift, separation, calibration,
    decisions, segments, attention, embedding maps and tuning on the test part, beside a linear probe, the
    untuned embedding and the best head on aggregates alone, with a data card and a model card.

    Example: qanchor-cli report --all --out report.html
    """
    from qanchor.report.page import base_area
    from qanchor.report.report import write_report
    from qanchor.report.report_json import report_figures
    from qanchor.report.summary import summarise

    site = Site.open()
    names = chosen(site.workspace, scenario, every or not scenario)
    page = out or site.home.reports / "report.html"
    _check_place(page)
    with progress() as bar:
        compute = site.settings.compute if explain else None
        summary = summarise(site, names, bar, compute)
    files = write_report(summary, page)
    if json:
        print_json(report_figures(summary) | {"files": files})
        return
    print_table(
        "report",
        [
            {
                "scenario": one.name,
                "AUC": one.card.metrics["head"]["auc"],
                "KS": one.card.metrics["head"]["ks"],
                "untuned probe": base_area(one),
                "ceiling": one.ceiling,
                "way there": one.way,
                "look at": ", ".join(check.fault for check in one.checks if check.fault) or "-",
            }
            for one in summary.scenarios
        ],
    )
    for told in dict.fromkeys(
        one.anchor_absent for one in summary.scenarios if explain and one.anchor_absent
    ):
        typer.echo(f"note: {told}")
    typer.echo(f"written to {page}")


def _check_place(page: Path) -> None:
    """Refuse a page that cannot be written, before the work is done."""
    from qanchor.errors import InputError

    if page.is_dir():
        raise InputError(f"{page} is a folder", "Give the page's file name, such as report.html.")
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{page.parent} cannot be made: {error.strerror}", "Give another --out.") from error
