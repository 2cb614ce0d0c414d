"""`qanchor-cli report`: the quality of every scenario's score on one page."""

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
    as_json: JsonOption = False,
) -> None:
    """Write the report of all scenarios, one HTML page.

    The page works offline; report.json, figures/*.png and scores/ are written next to it. It summarises every
    scenario's score in words, then shows ROC, gain, lift, KS, calibration, decisions, segments, attention,
    embedding maps and tuning on the test part, with a data card and a model card. Baselines are a linear
    probe, the untuned embedding and the best head on aggregates.

    Example: qanchor-cli report --all --out report.html
    """
    from qanchor.report.files import report_json, write_report
    from qanchor.report.page import base_area
    from qanchor.report.summary import summarise

    site = Site.open()
    names = chosen(site.workspace, scenario, every or not scenario)
    page = out or site.home.reports / "report.html"
    _check_page(page)
    with progress() as bar:
        summary = summarise(site, names, bar, explain)
    files = write_report(summary, page)
    if as_json:
        print_json(report_json(summary) | {"files": files})
        return
    rows = [
        {
            "scenario": one.name,
            "AUC": one.card.metrics["head"]["auc"],
            "KS": one.card.metrics["head"]["ks"],
            "untuned probe": base_area(one),
            "best reachable": one.ceiling,
            "share reached": one.reached,
            "to review": ", ".join(check.fault for check in one.checks if check.fault) or "-",
        }
        for one in summary.scenarios
    ]
    print_table("report", rows)
    reasons = [one.tuning_absent for one in summary.scenarios if explain and one.tuning_absent]
    for reason in dict.fromkeys(reasons):
        typer.echo(f"note: {reason}")
    typer.echo(f"written to {page}")


def _check_page(page: Path) -> None:
    """Refuse a page that cannot be written, before anything is computed for it."""
    from qanchor.errors import InputError

    if page.is_dir():
        raise InputError(f"{page} is a folder", "Give the page's file name, such as report.html.")
    make_folder(page.parent)


def make_folder(folder: Path) -> None:
    """Create the folder of an --out option.

    Raises:
        InputError: it cannot be created.
    """
    from qanchor.errors import InputError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be created: {error.strerror}", "Give another --out.") from error
