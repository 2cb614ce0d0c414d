"""`qanchor-cli scenarios explain`: what prompt tuning does to scenarios' embeddings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.evaluate.report import make_folder
from cli.output import JsonOption, print_json, print_table
from cli.scenarios import AllOption, ScenariosOption, chosen
from cli.stages import progress
from qanchor.site import Site

if TYPE_CHECKING:
    from qanchor.explain.tuning import TuningExplanation


def run(
    scenario: ScenariosOption = None,
    every: AllOption = False,
    users: Annotated[
        int, typer.Option(min=2, max=5_000, help="Number of test users whose attention is measured.")
    ] = 100,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for charts, .png; default: none.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a scenario's query attends to, before and after tuning.

    Attention is that of the token that the embedding is read from: the mean over all layers and heads of the
    history's share, by modality. The AUCs are those of a linear probe on the untuned and on the tuned
    embedding, fitted and tested on the same rows.

    Example: qanchor-cli scenarios explain --scenario takeout --out charts
    """
    from qanchor.explain.tuning import TuningOptions, explain_tuning, stored_rows

    if out is not None:
        make_folder(out)
    site = Site.open()
    names = chosen(site.workspace, scenario, every)
    rows = stored_rows(site, names)
    with progress() as bar:
        results = explain_tuning(site, rows, bar, TuningOptions.for_scenarios(len(rows), users))
    explained = {name: one for name, one in results.items() if not isinstance(one, str)}
    charts = _write_charts(out, explained) if out else 0
    if as_json:
        absent = {name: {"absent": one} for name, one in results.items() if isinstance(one, str)}
        documents = absent | {name: one.as_json() for name, one in explained.items()}
        print_json({name: documents[name] for name in results})
        return
    for name in names:
        if name in explained:
            _print(name, explained[name])
        else:
            typer.echo(f"{name}: {results.get(name, 'there is no head. Run `qanchor-cli head train`.')}")
    if charts:
        typer.echo(f"written to {out}: {charts} charts")


def _print(name: str, explanation: "TuningExplanation") -> None:
    attention, gain = explanation.attention, explanation.gain
    rows = [
        {
            "attention on the history": one.name,
            "before tuning": one.before,
            "after": one.after,
            "change": "-" if one.change is None else f"{one.change.value:+.1%}",
            "95%": "-" if one.change is None else f"{one.change.low:+.1%} to {one.change.high:+.1%}",
        }
        for one in attention.modalities
    ]
    print_table(f"{name}: {attention.users} test users", rows)
    if gain is None:
        typer.echo(f"{name} is untuned: run `qanchor-cli tune --scenario {name}` to compare.\n")
        return
    change = gain.test.difference
    typer.echo(
        f"linear probe on {gain.rows['test']:,} test rows: AUC {gain.base['auc']:.4f} untuned, "
        f"{gain.tuned['auc']:.4f} tuned, difference {change.value:+.4f} "
        f"({change.low:+.4f} to {change.high:+.4f}), p {gain.test.p_value:.3f}\n"
    )


def _write_charts(folder: Path, explained: "dict[str, TuningExplanation]") -> int:
    from qanchor.charts.drawing import draw_charts

    charts = [
        (chart, folder / f"{name}_{chart.name}.png")
        for name, explanation in explained.items()
        for chart in explanation.charts
    ]
    draw_charts(charts)
    return len(charts)
