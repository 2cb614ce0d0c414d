"""`qanchor-cli report`: how good every scenario is, on one page."""

from pathlib import Path
from typing import Annotated

import typer

from cli.context import open_context
from cli.output import JsonOption, print_json, print_table, progress
from cli.scenarios import ScenariosOption, chosen


def run(
    scenario: ScenariosOption = None,
    every: Annotated[bool, typer.Option("--all", help="Every scenario with a head; the default.")] = False,
    out: Annotated[Path | None, typer.Option(help="The page; default: reports/report.html at home.")] = None,
    json: JsonOption = False,
) -> None:
    """Write the report: one HTML page that works offline, report.json, and figures/*.png beside it.

    It compares all scenarios, then shows each one's ROC, separation, scores, lift, calibration, decisions
    and embedding map on the test part, beside a linear probe and the best head on aggregates alone.

    Example: qanchor-cli report --all --out report.html
    """
    from qanchor.evaluation.report import report_figures, write_report
    from qanchor.evaluation.summary import summarise
    from qanchor.heads.train import Surroundings
    from qanchor.storage.features import FeatureRepository

    context = open_context()
    names = chosen(context.workspace, scenario, every or not scenario)
    source = FeatureRepository(context.workspace, context.home)
    around = Surroundings(source, context.home, context.engine, context.workspace)
    with progress() as bar:
        summary = summarise(around, names, bar)
    page = out or context.home.reports / "report.html"
    files = write_report(summary, page)
    if json:
        print_json(report_figures(summary) | {"files": files})
        return
    print_table(
        "report",
        [
            {
                "scenario": one.card.scenario,
                "AUC": one.card.metrics["head"]["auc"],
                "KS": one.card.metrics["head"]["ks"],
                "ceiling": one.ceiling,
                "way there": one.way,
            }
            for one in summary.scenarios
        ],
    )
    typer.echo(f"written to {page}")
