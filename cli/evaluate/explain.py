"""`qanchor-cli explain`: what the anchor does to scenarios' embeddings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import JsonOption, print_json, print_table
from cli.scenarios import AllOption, ScenariosOption, chosen
from cli.stages import progress
from qanchor.site import Site

if TYPE_CHECKING:
    from qanchor.explain.anchor import AnchorFindings


def run(
    scenario: ScenariosOption = None,
    every: AllOption = False,
    users: Annotated[
        int, typer.Option(min=2, max=5_000, help="Number of test users whose attention is measured.")
    ] = 100,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for charts, .png; default: none.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show what a scenario's query attends to, before and after tuning.

    Attention is the backbone's own, of the token that the embedding is read from: mean of all layers and
    heads, the history's share by modality. The areas are those of a linear probe on the untuned and on the
    tuned embedding, fitted and tested on the same rows.

    Example: qanchor-cli explain --scenario takeout --out charts
    """
    from qanchor.explain.anchor import AnchorOptions, explain_anchors, stored_rows
    from qanchor.report.report_json import anchor_figures

    if out is not None:
        _make(out)
    site = Site.open()
    names = chosen(site.workspace, scenario, every)
    rows = stored_rows(site, names)
    options = AnchorOptions.for_scenarios(len(rows), users)
    with progress() as bar:
        found = explain_anchors(site, site.settings.compute, rows, bar, options)
    files = [] if out is None else _write(out, found)
    if json:
        print_json(
            {
                name: {"absent": one} if isinstance(one, str) else anchor_figures(one)
                for name, one in found.items()
            }
        )
        return
    for name in names:
        one = found.get(name)
        if one is None or isinstance(one, str):
            typer.echo(f"{name}: {one or 'there is no head. Run `qanchor-cli head train`.'}")
            continue
        _print(name, one)
    if files:
        typer.echo(f"written to {out}: {len(files)} charts")


def _print(name: str, found: "AnchorFindings") -> None:
    attention = found.attention
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
    if found.gain is None:
        typer.echo(f"{name} is untuned: there is no after. Run `qanchor-cli tune --scenario {name}`.\n")
        return
    test = found.gain.test
    typer.echo(
        f"linear probe on {found.gain.rows['test']:,} test rows: untuned {found.gain.base['auc']:.4f}, tuned "
        f"{found.gain.tuned['auc']:.4f}, difference {test.difference.value:+.4f} "
        f"({test.difference.low:+.4f} to {test.difference.high:+.4f}), p {test.p_value:.3f}\n"
    )


def _make(folder: Path) -> None:
    from qanchor.errors import InputError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror}", "Give another --out.") from error


def _write(folder: Path, found: "dict[str, AnchorFindings | str]") -> list[Path]:
    from qanchor.charts.images import save_charts
    from qanchor.explain.anchor_charts import attention_chart

    charts = [
        (chart, folder / f"{name}_{chart.name}.png")
        for name, one in found.items()
        if not isinstance(one, str)
        for chart in (attention_chart(one.attention), *one.maps)
    ]
    save_charts(charts)
    return [path for _, path in charts]
