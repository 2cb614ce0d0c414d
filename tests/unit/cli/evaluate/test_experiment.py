import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from qanchor.experiments import Experiment, assign, compare, moments
from qanchor.settings import Settings
from qanchor.simulation.cohort import Cohort, CohortPlan, Responses
from qanchor.simulation.config import WorldPlan
from qanchor.simulation.policy_inputs import PolicyInputs
from qanchor.site import Site
from tests.unit.cli.conftest import Run


@pytest.fixture(autouse=True)
def home(empty_home: Path) -> Path:
    return empty_home


def _rows(path: Path, users: int = 2000, control: int = 1000) -> Path:
    random = np.random.default_rng(0)
    before = random.normal(size=users)
    treated = np.arange(users) >= control
    table = pa.table(
        {
            "user_id": [f"u{n}" for n in range(users)],
            "arm": np.where(treated, "treatment", "control").tolist(),
            "drawdown": 10 + 2 * before + random.normal(size=users) + 0.5 * treated,
            "visits": random.poisson(4, users) + 1,
            "clicks": random.poisson(2, users),
            "before": before,
        }
    )
    pq.write_table(table, path)
    return path


def test_plan_says_users_and_days(run: Run) -> None:
    arguments = ["experiment", "plan", "--baseline", "0.1", "--effect", "0.02", "--per-day", "500", "--json"]
    code, out, _ = run(*arguments)

    assert code == 0
    document = json.loads(out)
    assert (document["control"], document["treatment"], document["days"]) == (3841, 3841, 16)


def test_plan_says_what_the_users_there_are_would_show(run: Run) -> None:
    code, out, _ = run("experiment", "plan", "--baseline", "0.1", "--users", "7682", "--json")

    assert code == 0
    assert json.loads(out)["difference"] == pytest.approx(0.0192, abs=1e-4)
    assert "difference" in run("experiment", "plan", "--deviation", "3", "--users", "500")[1]


def test_assigned_arms_are_those_of_the_library(run: Run, tmp_path: Path) -> None:
    users, out = tmp_path / "users.txt", tmp_path / "arms.csv"
    users.write_text("\n".join(f"u{n}" for n in range(300)))
    arguments = ["experiment", "assign", "--name", "spring", "--users", str(users)]
    arms = ["--arm", "a=0.2", "--arm", "b=0.8", "--layer", "calls", "--to", "0.5"]
    code, shown, _ = run(*arguments, *arms, "--out", str(out))

    assigned = assign(
        Experiment("spring", {"a": 0.2, "b": 0.8}, "calls", 0.0, 0.5), [f"u{n}" for n in range(300)]
    )
    table = pacsv.read_csv(out)
    assert code == 0
    assert f"{(assigned >= 0).sum()} of 300 users take part" in shown
    assert table["arm"].to_pylist() == [("a", "b")[arm] for arm in assigned if arm >= 0]
    code, shown, _ = run(*arguments, "--json")
    assert {row["arm"] for row in json.loads(shown)["users"]} == {"control", "treatment"}


def test_analyse_measures_each_metric_with_cuped_and_at_any_look(run: Run, tmp_path: Path) -> None:
    rows = _rows(tmp_path / "rows.parquet")
    arguments = ["experiment", "analyse", str(rows), "--metric", "drawdown", "--metric", "clicks/visits"]
    arguments += ["--covariate", "before", "--planned-users", "2000"]
    code, out, _ = run(*arguments, "--json")
    document = json.loads(out)
    first, second = document["results"]
    values = pq.read_table(rows)["drawdown"].to_numpy()
    plain = compare(moments(values[:1000]), moments(values[1000:]))

    assert code == 0
    assert document["ratio_holds"]
    assert first["effect"]["difference"]["value"] == pytest.approx(plain.difference.value)
    # Four standard errors of an outcome whose variance CUPED cuts to 1.
    assert first["adjusted"]["difference"]["value"] == pytest.approx(0.5, abs=0.18)
    assert first["variance_cut"] == pytest.approx(0.8, abs=0.05)
    assert first["always"]["difference"]["low"] < first["adjusted"]["difference"]["low"]
    assert second["metric"] == "clicks/visits"
    code, out, _ = run(*arguments)
    assert "arms: as planned" in out
    assert "corrected for 2 comparisons" in out


def test_lost_users_are_noticed(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(
        "experiment", "analyse", str(_rows(tmp_path / "r.parquet", 2000, 900)), "--metric", "drawdown"
    )

    assert code == 0
    assert "NOT as planned" in out
    assert "no effect below can be trusted" in out


def test_evaluate_values_a_policy_on_a_log(run: Run, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    taken = random.random(5000) < 0.25
    log = {
        "reward": (random.random(5000) < np.where(taken, 0.5, 0.2)).astype(float),
        "propensity": np.where(taken, 0.25, 0.75),
        "target": taken.astype(float),
    }
    pq.write_table(pa.table(log), tmp_path / "log.parquet")
    code, out, _ = run("experiment", "evaluate", str(tmp_path / "log.parquet"), "--json")
    document = json.loads(out)

    assert code == 0
    assert document["snips"]["low"] < 0.5 < document["snips"]["high"]
    code, out, _ = run("experiment", "evaluate", str(tmp_path / "log.parquet"))
    assert "self-normalised" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "--effect", "0.1"], "needs one of --baseline and --deviation"),
        (["plan", "--baseline", "0.1", "--effect", "0"], "an effect of 0 cannot be detected"),
        (["plan", "--baseline", "2", "--users", "100"], "the base rate 2 is not between 0 and 1"),
        (["assign", "--name", "x", "--users", "none.txt"], "none.txt cannot be read"),
        (["assign", "--name", "x", "--users", "USERS", "--arm", "a"], "--arm 'a' is not NAME=SHARE"),
        (["assign", "--name", "x", "--users", "USERS", "--arm", "a=1"], "x has 1 arm"),
        (["analyse", "ROWS", "--metric", "nonsense"], "there is no column 'nonsense'. Columns: user_id, arm"),
        (["analyse", "ROWS", "--metric", "arm"], "column arm holds string, not numbers"),
        (["analyse", "ROWS", "--metric", "visits", "--control", "x"], "no row is of arm 'x'"),
        (["analyse", "ROWS", "--metric", "visits", "--arm", "control=1"], "planned are control"),
        (["analyse", "TWICE", "--metric", "visits"], "user 'u1' has rows 2 and 3"),
        (["analyse", "HOLES", "--metric", "visits"], "row 2: column visits has no finite value"),
        (["analyse", "gone.csv", "--metric", "visits"], "gone.csv cannot be read"),
        (["analyse", "rows.txt", "--metric", "visits"], "neither .parquet nor .csv"),
        (["evaluate", "ROWS"], "there is no column 'reward'"),
    ],
)
def test_mistakes_are_one_line_with_a_remedy(
    run: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "users.txt").write_text("u1\nu2\n")
    (tmp_path / "twice.csv").write_text("user_id,arm,visits\nu0,control,1\nu1,control,1\nu1,treatment,2\n")
    (tmp_path / "holes.csv").write_text("user_id,arm,visits\nu0,control,1\nu1,treatment,\n")
    paths = {
        "USERS": tmp_path / "users.txt",
        "ROWS": tmp_path / "rows.parquet",
        "TWICE": tmp_path / "twice.csv",
        "HOLES": tmp_path / "holes.csv",
    }
    _rows(paths["ROWS"], 40, 20)
    code, _, err = run("experiment", *[str(paths.get(argument, argument)) for argument in arguments])

    assert code == 2
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def _cohort(plan: CohortPlan, *_: Any) -> Cohort:
    """Users whose answers hang on what is visible: pay day, and late fees of before."""
    random, users = np.random.default_rng(plan.first_block), plan.users
    since_salary, risk = random.uniform(0, 30, users), random.random(users)
    inputs = PolicyInputs(
        risk[:, None].astype(np.float32),
        np.stack([risk, 0.5 * np.ones(users), random.random(users)], axis=1),
        np.where(random.random(users) < 0.5 * risk, 10.0, 200.0),
        since_salary,
        np.full(users, 100.0),
    )
    best = np.argmin(np.abs((since_salary[:, None] + 7 * np.arange(4)) % 30 - 26), axis=1)
    chance = np.full((users, 4), 0.1)
    chance[np.arange(users), best] = 0.5
    drawn = (random.random((users, 4)) < chance).astype(np.float64)
    late = random.random(users) < risk
    profit = np.stack([np.zeros(users), np.where(late, -3.0, 1.0)], axis=1)
    expected = np.stack([np.zeros(users), 1 - 4 * risk], axis=1)
    calls = Responses({"drawdown": drawn, "amount": drawn * 100}, (chance, chance))
    ids = [f"u{plan.first_block}-{number}" for number in range(users)]
    return Cohort(ids, inputs, calls, Responses({"profit": profit}, (expected, expected)), late)


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users whose whole history is known, instead of simulated and embedded ones."""
    monkeypatch.setattr(Site, "open", lambda: SimpleNamespace(settings=Settings.model_construct()))
    monkeypatch.setattr("qanchor.simulation.online_tests.open_scorer", lambda *_: None)
    world = WorldPlan(users=1)
    monkeypatch.setattr("qanchor.simulation.online_tests.open_world", lambda *_: world)
    monkeypatch.setattr("qanchor.simulation.cohort.make_cohort", _cohort)


def test_simulate_runs_both_tests_and_leaves_rows_that_analyse_reads(
    run: Run, tmp_path: Path, simulated: None
) -> None:
    arguments = ["experiment", "simulate", "--users", "4000", "--pilot-users", "2000"]
    code, out, _ = run(*arguments, "--json", "--out", str(tmp_path / "tests"))
    document = json.loads(out)

    assert code == 0
    for name in ("calls", "lines"):
        values, effect = (
            document[name]["values"],
            document[name]["analysis"]["results"][0]["adjusted"]["difference"],
        )
        assert values["random"] < values["treatment"] <= values["oracle"]
        assert values["fixed rule"] < values["treatment"]
        assert effect["low"] > 0
        replay = document[name]["replay"]["doubly_robust"]
        # Four standard errors: of intervals at 95% one in twenty would miss by chance alone.
        middle, half = (replay["low"] + replay["high"]) / 2, (replay["high"] - replay["low"]) / 2
        assert abs(middle - values["treatment"]) < 4 / 1.96 * half
    assert document["lines"]["ranking"]["ks"]["low"] > 0
    rows = str(tmp_path / "tests" / "calls.parquet")
    code, out, _ = run("experiment", "analyse", rows, "--metric", "drawdown", "--json")
    plain = document["calls"]["analysis"]["results"][0]["effect"]["difference"]
    assert json.loads(out)["results"][0]["effect"]["difference"] == plain


def test_simulate_prints_true_values_and_estimates(run: Run, simulated: None) -> None:
    code, out, _ = run("experiment", "simulate", "calls", "--users", "2000", "--pilot-users", "2000")

    assert code == 0
    assert "true drawdown per user" in out
    assert "treatment minus fixed rule" in out
    assert "lines" not in out


def test_simulate_needs_heads(run: Run) -> None:
    code, _, err = run("experiment", "simulate")

    assert code == 3
    assert "head train --scenario money" in err
