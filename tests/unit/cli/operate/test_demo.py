"""`demo` finds its input, and starts again where its options differ from those of an interrupted run."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cli.operate.demo_steps import DemoPlan
from tests.unit.cli.conftest import Run

_EXAMPLES = Path(__file__).resolve().parents[4] / "examples"


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[DemoPlan]:
    """The plans that would have run, in a working folder of their own."""
    plans: list[DemoPlan] = []
    monkeypatch.setattr("cli.operate.demo_steps.run_plan", plans.append)
    monkeypatch.chdir(tmp_path)
    return plans


def test_data_named_after_an_example_needs_no_repo(plans: list[DemoPlan], run: Run, tmp_path: Path) -> None:
    data = tmp_path / "online_retail"
    data.mkdir()
    (data / "events.parquet").touch()
    assert run("demo", "--data", str(data))[0] == 0
    (plan,) = plans
    assert (plan.data, plan.repo) == (data, _EXAMPLES / "online_retail")
    assert plan.target == tmp_path / ".demo" / "online_retail"


@pytest.mark.parametrize(("files", "part"), [((), "events.parquet"), (("events.parquet",), "--repo")])
def test_input_that_is_incomplete_is_one_line(
    plans: list[DemoPlan], run: Run, tmp_path: Path, files: tuple[str, ...], part: str
) -> None:
    for name in files:
        (tmp_path / name).touch()
    code, _, err = run("demo", "--data", str(tmp_path))
    assert (code, err.count("\n"), plans) == (2, 1, [])
    assert part in err


def test_the_same_options_continue_and_others_start_again(
    plans: list[DemoPlan], run: Run, tmp_path: Path
) -> None:
    journal = tmp_path / ".demo" / "world" / "steps.json"
    run("demo", "--users", "200")
    journal.write_text('["simulate"]')
    run("demo", "--users", "200")
    assert journal.exists()
    run("demo", "--users", "300")
    assert not journal.exists()
    journal.write_text('["simulate"]')
    run("demo", "--users", "300", "--fresh")
    assert not journal.exists()
    assert [plan.users for plan in plans] == [200, 200, 300, 300]


def test_the_world_ends_yesterday_and_a_resumed_demo_keeps_its_dates(
    plans: list[DemoPlan], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter([datetime(2027, 3, 1, 23, 30, tzinfo=UTC), datetime(2027, 5, 9, tzinfo=UTC)])
    monkeypatch.setattr("qanchor.times.now", lambda: next(moments))
    run("demo", "--users", "200")
    run("demo", "--users", "200")
    run("demo", "--users", "200", "--fresh")
    assert [plan.end for plan in plans] == ["2027-02-28", "2027-02-28", "2027-05-08"]


def test_a_demo_of_0_1_0_continues_with_the_dates_that_it_has(
    plans: list[DemoPlan], run: Run, tmp_path: Path
) -> None:
    run("demo", "--users", "200")
    record = tmp_path / ".demo" / "world" / "options.json"
    record.write_text(json.dumps({k: v for k, v in json.loads(record.read_text()).items() if k != "end"}))
    run("demo", "--users", "200")
    assert plans[-1].end is None
