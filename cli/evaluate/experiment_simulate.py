"""`qanchor-cli experiment simulate`: the paper's two online tests, on fresh users of the simulated world."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.output import JsonOption, print_json, print_table
from cli.stages import progress
from qanchor.site import Site

if TYPE_CHECKING:
    from qanchor.experiments.analysis import Analysis
    from qanchor.metrics import Interval
    from qanchor.simulation.online_tests import OnlineTest


class Which(StrEnum):
    """The simulated tests."""

    calls = "calls"
    lines = "lines"
    both = "both"


def simulate(
    which: Annotated[
        Which, typer.Argument(help="calls: when to call; lines: whom to grant a credit line.")
    ] = Which.both,
    users: Annotated[int, typer.Option(min=1000, max=500_000, help="Number of users of the test.")] = 8000,
    pilot_users: Annotated[
        int, typer.Option(min=1000, max=500_000, help="Number of earlier users from whom the policy learns.")
    ] = 6000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulation.")] = 2026,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the rows of each test, for `experiment analyse`."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Test embedding policies against a fixed rule in simulation.

    New users of the simulated world, which no model has seen, are embedded and scored by the heads of money,
    active and login. The policies learn from a pilot; then a salted hash gives each user an arm, and each
    user responds by the world's own process. A random policy and an oracle are shown for comparison.

    Example: qanchor-cli experiment simulate calls --users 8000 --out tests
    """
    import pyarrow.parquet as pq

    from qanchor.simulation.cohort import FIRST_BLOCK, PILOT_BLOCK, CohortPlan, make_cohort
    from qanchor.simulation.online_tests import (
        PILOT_DAY,
        TEST_DAY,
        calls_test,
        lines_test,
        open_scorer,
        open_world,
    )

    site = Site.open()
    scorer = open_scorer(site)
    world = open_world(site, seed)
    with progress() as bar:
        pilot = make_cohort(CohortPlan(world, pilot_users, PILOT_BLOCK, PILOT_DAY), scorer, bar)
        cohort = make_cohort(CohortPlan(world, users, FIRST_BLOCK, TEST_DAY), scorer, bar)
    runs = {"calls": calls_test, "lines": lines_test}
    tests = {name: run(pilot, cohort) for name, run in runs.items() if which.value in (name, "both")}
    if out:
        out.mkdir(parents=True, exist_ok=True)
        for name, online in tests.items():
            pq.write_table(online.result.rows, out / f"{name}.parquet")
    if as_json:
        print_json({name: _as_json(online) for name, online in tests.items()})
        return
    for name, online in tests.items():
        _show(name, online)
    if out:
        typer.echo(f"rows are in {', '.join(str(out / f'{name}.parquet') for name in tests)}")


def _show(name: str, online: "OnlineTest") -> None:
    result, replay, metric = online.result, online.replay, online.test.metric
    print_table(
        f"{name}: true {metric} per user if all users get the policy, from the simulated world",
        [{"policy": policy, metric: value} for policy, value in result.values.items()],
    )
    sizes = ", ".join(f"{users:,} {arm}" for arm, users in result.analysis.arms.items())
    verdict = "as planned" if result.analysis.ratio.is_sound else "NOT as planned"
    typer.echo(f"arms: {sizes}; {verdict} (p = {result.analysis.ratio.p_value:.2g})")
    rows = [*_effects("all", result.analysis, result.true_effect, metric)]
    if result.triggered:
        rows += _effects(
            f"decided differently ({1 - result.same:.0%})", result.triggered, result.true_triggered, metric
        )
    print_table("treatment minus fixed rule", rows)
    if result.note:
        typer.echo(result.note)
    estimates: dict[str, Interval | None] = {
        "inverse propensity": replay.ips,
        "self-normalised": replay.snips,
        "doubly robust": replay.doubly_robust,
    }
    truth = result.values["treatment"]
    print_table(
        f"treatment, valued on {replay.rows:,} logged decisions, worth {replay.effective_rows:,.0f}",
        [
            {"estimate": kind, metric: one.value, "from": one.low, "to": one.high, "known": truth}
            for kind, one in estimates.items()
            if one
        ],
    )
    for warning in replay.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if online.ranking:
        print_table(
            "ranking of users by delinquency: head minus rule",
            [
                {"figure": figure.upper(), "difference": one.value, "from": one.low, "to": one.high}
                for figure, one in online.ranking.items()
            ],
        )


def _effects(users: str, analysis: "Analysis", truth: float, metric: str) -> list[dict[str, Any]]:
    rows = []
    for result in analysis.results:
        best = result.best.difference
        rows.append(
            {
                "users": users,
                "metric": result.metric,
                "difference": best.value,
                "from": best.low,
                "to": best.high,
                "any look from": result.always.difference.low if result.always else None,
                "any look to": result.always.difference.high if result.always else None,
                "p": result.p_value,
                "CUPED": f"-{result.variance_cut:.0%}",
                "known": truth if result.metric == metric else None,
            }
        )
    return rows


def _as_json(online: "OnlineTest") -> dict[str, Any]:
    from dataclasses import asdict

    result = online.result
    return {
        "metric": online.test.metric,
        "values": result.values,
        "same": result.same,
        "true_effect": result.true_effect,
        "true_effect_triggered": result.true_triggered,
        "analysis": asdict(result.analysis),
        "triggered": asdict(result.triggered) if result.triggered else None,
        "note": result.note,
        "replay": asdict(online.replay),
        "ranking": {name: asdict(interval) for name, interval in online.ranking.items()},
    }
