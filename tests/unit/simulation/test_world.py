import hashlib
import json
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from qanchor.errors import InputError
from qanchor.progress import Silent
from qanchor.simulation.config import WorldPlan
from qanchor.simulation.outcomes import BIG_SPENDER, LOGIN_DAYS, QUIET_DAYS, SCENARIOS
from qanchor.simulation.world import Block, simulate, simulate_block


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_same_seed_gives_the_same_bytes_and_another_seed_others(plan: WorldPlan, tmp_path: Path) -> None:
    small = replace(plan, users=60, ceiling_users=0)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        simulate(replace(small, seed=seed), tmp_path / name)

    assert _digests(tmp_path / "a") == _digests(tmp_path / "b")
    assert _digests(tmp_path / "a")["events.parquet"] != _digests(tmp_path / "c")["events.parquet"]


def test_a_user_does_not_depend_on_how_many_others_there_are(plan: WorldPlan, block: Block) -> None:
    few = simulate_block(replace(plan, users=40), 0, ceilings=False)
    first_users = pc.less(block.events["user_id"], "u0000040")

    assert few.events.equals(block.events.filter(first_users))


def test_blocks_are_different_users(plan: WorldPlan, block: Block) -> None:
    second = simulate_block(replace(plan, users=550), 1, ceilings=False)

    assert not set(second.events["user_id"].unique().to_pylist()) & set(
        block.events["user_id"].unique().to_pylist()
    )
    assert second.user.min() >= 500
    assert second.user.max() < 550


def _horizon_events(plan: WorldPlan, block: Block, user: int, day: int) -> list[dict[str, object]]:
    start, end = plan.moment(day), plan.moment(day + plan.horizon_days)
    mine = block.events.filter(pc.equal(block.events["user_id"], f"u{user:07d}"))
    rows = {row["event_id"]: row for row in mine.to_pylist() if start <= row["event_time"] < end}
    return list(rows.values())


def _recomputed(plan: WorldPlan, rows: list[dict[str, object]], day: int) -> dict[str, bool]:
    bills = [row for row in rows if row["modality"] == "bill"]
    logins = {row["event_time"].date() for row in rows if row["modality"] == "spm"}  # type: ignore[attr-defined]
    quiet = (plan.moment(day) + timedelta(days=plan.horizon_days - QUIET_DAYS)).date()
    premium = ("Maison Orlane", "Velmont", "Aurelia Paris", "Castellane", "Noir Atelier", "Bellavue")
    takeout = ("Noodle Box", "To Go", "Delivery", "Rider Meals", "Express Kitchen")
    spending = ("food", "shopping", "entertainment", "transport", "travel", "household")
    actions = {str(row["action"]) for row in rows}
    paid = [row for row in bills if row["direction"] == "pays"]
    return {
        "fraud": any(str(row["merchant"]).startswith("Claim By") for row in bills),
        "money": any(str(row["merchant"]).endswith("Late Fee") for row in bills),
        "active": not any(date >= quiet for date in logins),
        "concert": any(" Live " in str(row["merchant"]) for row in bills),
        "login": len(logins) > LOGIN_DAYS,
        "forest": bool(actions & {"collects energy in", "waters trees in", "plants a tree in"}),
        "takeout": any(r["category"] == "food" and str(r["merchant"]).endswith(takeout) for r in bills),
        "brand": any(r["direction"] == "pays" and str(r["merchant"]).startswith(premium) for r in bills),
        "promo": "redeems coupon in" in actions,
        "value": sum(float(str(r["amount"])) for r in paid if r["category"] in spending) > BIG_SPENDER,
    }


def test_labels_equal_what_the_events_after_the_cutoff_say(plan: WorldPlan, block: Block) -> None:
    for row in range(0, len(block.user), 9):
        user, day = int(block.user[row]), int(block.day[row])

        result = _recomputed(plan, _horizon_events(plan, block, user, day), day)

        assert result == dict(zip(SCENARIOS, block.labels[row].tolist(), strict=True)), (user, day)


def test_test_users_are_others_and_are_asked_later(plan: WorldPlan, block: Block) -> None:
    test = block.split == 2

    assert not set(block.user[test]) & set(block.user[~test])
    assert block.day[test].min() >= block.day[~test].max() + plan.horizon_days
    assert block.day.max() + plan.horizon_days <= plan.days


def test_nobody_is_asked_about_before_joining_and_some_have_little_history(
    plan: WorldPlan, block: Block
) -> None:
    times = pc.min_max(block.events["event_time"])
    first = block.events.group_by("user_id").aggregate([("event_time", "min"), ("event_time", "count")])
    late = [t for t in first["event_time_min"].to_pylist() if t > plan.moment(20)]

    assert times["min"].as_py() >= plan.start
    assert times["max"].as_py() < plan.moment(plan.days)
    assert len(late) > 10
    assert min(first["event_time_count"].to_pylist()) < 20


def test_some_events_come_late_and_some_twice(block: Block) -> None:
    ids, times = block.events["event_id"], block.events["event_time"]
    moments = times.cast(pa.int64()).to_numpy()
    behind = np.maximum.accumulate(moments) - moments

    assert 0.003 < 1 - len(ids.unique()) / len(ids) < 0.008
    assert 0.01 < (behind > 3_600_000_000).mean() < 0.05
    twice = pc.value_counts(ids).filter(pc.equal(pc.value_counts(ids).field("counts"), 2)).field("values")
    copies = block.events.filter(pc.is_in(ids, value_set=twice)).sort_by("event_id")
    assert copies.slice(0, 2)["event_time"].unique().to_pylist() == [copies["event_time"][0].as_py()]


def test_every_event_passes_the_shipped_workspace(block: Block) -> None:
    from qanchor.workspace import load_workspace

    workspace = load_workspace(Path(__file__).parents[3] / "feature_repo")
    for name, spec in workspace.modalities.items():
        rows = block.events.filter(pc.equal(block.events["modality"], name))
        assert rows.num_rows > 0
        for field, field_spec in spec.fields.items():
            assert field_spec.optional or rows[field].null_count == 0, (name, field)
        others = set(workspace.event_columns) - set(spec.fields)
        assert all(rows[field].null_count == rows.num_rows for field in others)
    assert set(workspace.scenarios) == set(SCENARIOS)


def test_a_large_world_is_cut_into_files_and_nothing_partial_stays(plan: WorldPlan, tmp_path: Path) -> None:
    small = replace(plan, users=510, days=72, horizon_days=1, ceiling_users=0)
    world = simulate(small, tmp_path, file_users=500)

    files = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert files[:2] == ["active.parquet", "brand.parquet"]
    assert [name for name in files if name.startswith("events")] == [
        "events-00001.parquet",
        "events-00002.parquet",
    ]
    assert not [name for name in files if name.endswith((".partial", ".tmp"))]
    assert world["event_rows"] == sum(pq.read_metadata(p).num_rows for p in tmp_path.glob("events-*.parquet"))
    assert json.loads((tmp_path / "ceilings.json").read_text()) == {}


class _Interrupting(Silent):
    def advance(self, steps: int = 1, note: str = "") -> None:
        raise KeyboardInterrupt


def test_an_interrupted_simulation_leaves_no_file(plan: WorldPlan, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        simulate(replace(plan, users=20, ceiling_users=0), tmp_path, _Interrupting())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("users", [0, 1_000_001])
def test_a_size_out_of_range_is_refused(users: int) -> None:
    with pytest.raises(InputError, match="Choose 1 to"):
        WorldPlan(users=users)


def test_another_end_moves_every_date_and_changes_nothing_else(tmp_path: Path) -> None:
    plan = WorldPlan(users=60, seed=3, ceiling_users=60, paths=4)
    moved = plan.ending(date(2031, 3, 2))
    simulate(plan, tmp_path / "plain")
    simulate(moved, tmp_path / "moved")

    def table(name: str, path: str) -> pa.Table:
        return pq.read_table(tmp_path / name / path)

    distance = timedelta(days=(date(2031, 3, 2) - date(2026, 8, 28)).days)
    assert pc.max(table("moved", "events.parquet")["event_time"]).as_py().date() == date(2031, 3, 2)
    for path, column in (("events.parquet", "event_time"), ("labels/takeout.parquet", "as_of")):
        before, after = table("plain", path), table("moved", path)
        assert after.drop_columns(column).equals(before.drop_columns(column))
        assert after[column].equals(pc.add(before[column], pa.scalar(distance, pa.duration("us"))))
    digests = _digests(tmp_path / "plain"), _digests(tmp_path / "moved")
    for name in ("ceilings.json", "truth.parquet"):
        assert digests[0][name] == digests[1][name]
    world = json.loads((tmp_path / "moved" / "world.json").read_text())
    assert world["end"] == "2031-03-03T00:00:00+00:00"
    assert world.keys() == json.loads((tmp_path / "plain" / "world.json").read_text()).keys()


@pytest.mark.parametrize("last", [date(1970, 6, 1), date(2201, 1, 1), date(9999, 12, 31)])
def test_an_end_outside_the_calendar_is_refused(last: date) -> None:
    with pytest.raises(InputError, match="1971"):
        WorldPlan(users=10).ending(last)
