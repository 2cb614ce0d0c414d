"""`qanchor-cli head list`, `compare`, `promote` and `refit`: which head scores, and whether it should."""

from dataclasses import asdict
from typing import Annotated

import typer

from cli.output import JsonOption, print_json, print_rows, print_table
from cli.scenarios import ScenarioOption, ScenariosOption, chosen
from cli.stages import working
from qanchor.site import Site

ChampionOption = Annotated[
    str | None, typer.Option(metavar="VERSION", help="Version of a head; default: the champion.")
]
ChallengerOption = Annotated[
    str | None, typer.Option(metavar="VERSION", help="Version of a head; default: the newest challenger.")
]
_SHOWN = ("auc", "ks", "pr_auc", "lift_10", "brier", "log_loss", "ece")


def list_all(scenario: ScenariosOption = None, as_json: JsonOption = False) -> None:
    """List heads, the newest of each scenario first.

    Example: qanchor-cli head list --scenario takeout
    """
    from qanchor.registry.versions import list_heads

    site = Site.open()
    names = chosen(site.workspace, scenario, not scenario)
    rows = [
        {
            "scenario": name,
            "version": head.version,
            "role": "champion" if head.active else "challenger",
            "auc": head.metrics["test"]["head"]["auc"],
            "ks": head.metrics["test"]["head"]["ks"],
            "vectors": head.fingerprint[:12],
            "trained": head.created_at,
        }
        for name in names
        for head in list_heads(site.engine, name)
    ]
    print_rows("heads", rows, as_json)


def compare(
    scenario: ScenarioOption,
    challenger: ChallengerOption = None,
    champion: ChampionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a challenger with the champion on their test rows.

    The areas are compared by DeLong's paired test, every other figure by a paired bootstrap.

    Example: qanchor-cli head compare --scenario takeout
    """
    from qanchor.heads.compare import compare_heads

    with working("comparing heads"):
        comparison = compare_heads(Site.open(), scenario, challenger, champion)
    if as_json:
        print_json(asdict(comparison))
        return
    rows = [
        {
            "figure": name,
            "champion": comparison.champion_figures[name].value,
            "challenger": comparison.challenger_figures[name].value,
            "difference": comparison.differences[name].value,
            "from": comparison.differences[name].low,
            "to": comparison.differences[name].high,
        }
        for name in _SHOWN
    ]
    print_table(f"{scenario}: {comparison.challenger} against champion {comparison.champion}", rows)
    typer.echo(
        f"the challenger ranks {comparison.verdict.replace('no clear', 'with no clear')}: AUC "
        f"{comparison.auc_test.difference.value:+.4f}, DeLong p = {comparison.auc_test.p_value:.3g}, "
        f"{comparison.rows:,} test rows with {comparison.positives:,} positives"
    )


def promote(
    scenario: ScenarioOption,
    head: ChallengerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a head the champion, which scores users.

    Example: qanchor-cli head promote --scenario takeout
    """
    from qanchor.heads.compare import promote as promote_version

    card = promote_version(Site.open(), scenario, head)
    if as_json:
        print_json({"scenario": scenario, "champion": card.version})
    else:
        typer.echo(f"{scenario}: {card.version} is the champion, AUC {card.metrics['head']['auc']:.4f}")


def refit(
    scenario: ScenarioOption,
    head: ChampionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a head again on its stored training frame, and compare.

    The exit code is 1 if the result differs. Nothing is stored.

    Example: qanchor-cli head refit --scenario takeout
    """
    from qanchor.heads.refit import refit as fit_again

    with working("training the head again"):
        second = fit_again(Site.open(), scenario, head)
    if as_json:
        print_json(asdict(second) | {"exact": second.exact})
    elif second.exact:
        typer.echo(f"{scenario}: {second.version} comes out the same on its {second.rows:,} rows")
    else:
        changed = ", ".join(f"{name} {versions}" for name, versions in second.changed_libraries.items())
        typer.echo(
            f"{scenario}: {second.version} comes out differently, by up to "
            f"{second.largest_difference:.3g} in probability; changed libraries: {changed or 'none'}",
            err=True,
        )
    if not second.exact:
        raise typer.Exit(1)
