"""The two policy tests on fresh users of the simulated world, simulated on both cores."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.harness import Bar, table
from benchmarks.heads_deletion import open_home
from qanchor.metrics import Interval
from qanchor.progress import Silent
from qanchor.simulation.cohort import FIRST_BLOCK, PILOT_BLOCK, Cohort, CohortPlan, join_cohorts, make_cohort
from qanchor.simulation.config import BLOCK_USERS, WorldPlan
from qanchor.simulation.online_tests import (
    PILOT_DAY,
    TEST_DAY,
    OnlineTest,
    calls_test,
    lines_test,
    open_scorer,
)
from qanchor.simulation.policy_inputs import Scorer

_AT_ONCE = 2_000


def measure_policies(
    site: tuple[Path, Path], users: tuple[int, int], seed: int, after: int = 0
) -> tuple[dict[str, float], list[Bar]]:
    """Run both tests and print them.

    Args:
        site: home of the simulated world, with heads, and its feature repository.
        users: number of users of the pilot and of the tests.
        seed: seed of the world.
        after: number of users of an earlier test, who are left out.
    """
    return report(*_cohorts(site, users, seed, after))


def report(pilot: Cohort, cohort: Cohort) -> tuple[dict[str, float], list[Bar]]:
    """Figures and bars of both tests on simulated users; tables are printed.

    Args:
        pilot: users that the policies learn from.
        cohort: users of the tests.
    """
    figures: dict[str, float] = {}
    bars = []
    for name, online in (("calls", calls_test(pilot, cohort)), ("lines", lines_test(pilot, cohort))):
        measured = _figures(online)
        print(f"\n{name}: {len(cohort):,} users, the policies alike for {online.result.same:.0%}")
        print(table([{"policy": k, "known mean": v} for k, v in online.result.values.items()]))
        print(table(_rows(online)))
        if online.result.note:
            print(online.result.note)
        for warning in online.replay.warnings:
            print(f"warning: {warning}")
        figures |= {f"{name}_{key}": value for key, value in measured.items()}
        bars.append(
            Bar(
                f"{name}: treatment less fixed rule, low end of the 95% interval",
                measured["all_low"],
                0.0,
                "higher",
            )
        )
    return figures, bars


def _cohorts(site: tuple[Path, Path], users: tuple[int, int], seed: int, after: int) -> tuple[Cohort, Cohort]:
    world = WorldPlan(users=1, seed=seed)
    # Users come in whole blocks.
    first = FIRST_BLOCK - (-after // BLOCK_USERS)
    groups = [(users[0], PILOT_BLOCK, PILOT_DAY), (users[1], first, TEST_DAY)]
    tasks = [
        (*site, CohortPlan(world, min(_AT_ONCE, number - begin), first + begin // BLOCK_USERS, day))
        for number, first, day in groups
        for begin in range(0, number, _AT_ONCE)
    ]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(_part, *zip(*tasks, strict=True)))
    pilots = -(-users[0] // _AT_ONCE)
    return join_cohorts(parts[:pilots]), join_cohorts(parts[pilots:])


_SCORERS: dict[Path, Scorer] = {}


def _part(home: Path, repo: Path, plan: CohortPlan) -> Cohort:
    if home not in _SCORERS:
        from qanchor.threads import limit_threads

        limit_threads(1)
        _SCORERS[home] = open_scorer(open_home(home, repo))
    return make_cohort(plan, _SCORERS[home], Silent())


def _figures(online: OnlineTest) -> dict[str, float]:
    result, replay = online.result, online.replay
    everybody = result.analysis.results[0]
    figures = {f"value_{name.replace(' ', '_')}": value for name, value in result.values.items()}
    figures |= {"true_effect": result.true_effect, "true_triggered": result.true_triggered}
    for name, interval in _intervals(online).items():
        figures |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    figures |= {"cuped_all": everybody.variance_cut, "p_all": everybody.best.p_value}
    if result.triggered:
        alone = result.triggered.results[0]
        figures |= {"cuped_triggered": alone.variance_cut, "p_triggered": alone.best.p_value}
    figures |= {"sample_ratio_p": result.analysis.ratio.p_value, "effective_rows": replay.effective_rows}
    return figures | {"users": float(result.rows.num_rows), "triggered_share": 1 - result.same}


def _intervals(online: OnlineTest) -> dict[str, Interval]:
    result, replay = online.result, online.replay
    everybody = result.analysis.results[0]
    alone = {"triggered": result.triggered.results[0].best.difference} if result.triggered else {}
    assert everybody.always is not None and replay.doubly_robust is not None
    return {
        "raw": everybody.effect.difference,
        "all": everybody.best.difference,
        "always_valid": everybody.always.difference,
        **alone,
        **{f"rank_{name}": interval for name, interval in online.ranking.items()},
        "replay_ips": replay.ips,
        "replay_snips": replay.snips,
        "replay_doubly_robust": replay.doubly_robust,
    }


def _rows(online: OnlineTest) -> list[dict[str, Any]]:
    result = online.result
    known = {
        "raw": result.true_effect,
        "all": result.true_effect,
        "always_valid": result.true_effect,
        "triggered": result.true_triggered,
    }
    known |= {f"replay_{name}": result.values["treatment"] for name in ("ips", "snips", "doubly_robust")}
    return [
        {"figure": name, "estimate": one.value, "from": one.low, "to": one.high, "known": known.get(name, "")}
        for name, one in _intervals(online).items()
    ]
