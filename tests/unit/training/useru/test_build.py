"""Built sets: grounded, checked, stored with their origin, and blind to what comes after a cut-off."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from qanchor.errors import InputError, NotReady
from qanchor.progress import Silent
from qanchor.times import DAY_US
from qanchor.training.useru import build as module
from qanchor.training.useru.profile import ProfileReader, SpanEvents
from qanchor.training.useru.store import MANIFEST, PAIRS, read_manifest, read_pairs
from tests.unit.training.useru.worlds import CONFIG, build, rows_of
from tests.unit.training.worlds import UNTIL, planted_leak, tiny_events

LEAK = "zzleak perfect predictor"
ONCE = replace(CONFIG, cutoffs=1)


def _planted_at_cutoffs(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The events, and for every user a flood of new words at the cut-off's very moment and after it."""
    cutoffs = {row["user_id"]: row["cutoff"] for row in rows}
    flood = [
        {"user_id": user, "event_time": cutoff + delay, "modality": "songs", "title": LEAK}
        for user, cutoff in cutoffs.items()
        for delay in (timedelta(0), timedelta(microseconds=1), timedelta(hours=5), timedelta(days=2))
    ]
    return pd.concat([tiny_events(), pd.DataFrame(flood)], ignore_index=True)


def _text(row: dict[str, Any]) -> str:
    facts = " ".join(f"{fact['value']} {fact['says']}" for fact in row["facts"])
    return f"{row['topic']} {row['question']} {row['answer']} {row['draft']} {facts}"


def test_nothing_at_or_after_a_cutoff_moves_a_word_of_what_the_profile_says(tmp_path: Path) -> None:
    build(tmp_path / "plain", config=ONCE)
    plain, ahead = rows_of(tmp_path / "plain", "uqa"), rows_of(tmp_path / "plain", "future")
    build(tmp_path / "leaky", _planted_at_cutoffs(plain + ahead), ONCE)
    assert rows_of(tmp_path / "leaky", "uqa") == plain
    assert not any("zzleak" in _text(row) for row in plain)
    # The attack is a real one: what looks ahead does see the flood.
    futures = rows_of(tmp_path / "leaky", "future")
    assert futures != ahead
    assert sum("zzleak" in row["answer"] for row in futures) > 20
    assert not any("zzleak" in row["question"] for row in futures)


def test_events_at_or_after_until_move_nothing_at_all(tmp_path: Path) -> None:
    plain = build(tmp_path / "plain")
    leaky = build(tmp_path / "leaky", planted_leak(tiny_events(), UNTIL))
    assert leaky.content_hash == plain.content_hash
    assert read_pairs(tmp_path / "leaky").equals(read_pairs(tmp_path / "plain"))


def test_every_horizon_ends_by_the_end_of_pretraining_and_every_profile_at_the_cutoff(tmp_path: Path) -> None:
    build(tmp_path / "set")
    futures, profiles = rows_of(tmp_path / "set", "future"), rows_of(tmp_path / "set", "uqa")
    assert all(row["cutoff"] + timedelta(days=row["days"]) <= UNTIL for row in futures)
    assert all(row["days"] > 0 for row in futures)
    assert {row["days"] for row in profiles} == {-60}


def test_a_reader_that_looks_ahead_is_caught_by_reflection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = ProfileReader.read

    def leaky(reader: ProfileReader, row: int, cutoff: int, days: int) -> SpanEvents:
        if days > 0:
            return honest(reader, row, cutoff, days)
        # As if `<=` stood for `<`, by three days.
        return honest(reader, row, cutoff + 3 * DAY_US, days)

    monkeypatch.setattr(ProfileReader, "read", leaky)
    manifest = build(tmp_path / "set")
    assert manifest.faults["refuted fact"] > 50
    for row in rows_of(tmp_path / "set", "uqa"):
        refuted = {fault.removeprefix("the events refute ") for fault in row["faults"]}
        assert refuted.isdisjoint(row["facts_used"])


def test_users_have_several_cutoffs_and_horizons_and_their_most_relevant_topics(tmp_path: Path) -> None:
    manifest = build(tmp_path / "set")
    futures, profiles = rows_of(tmp_path / "set", "future"), rows_of(tmp_path / "set", "uqa")
    by_user = pd.DataFrame(futures).groupby("user_id")
    assert by_user["cutoff"].nunique().max() == 2
    assert by_user["days"].nunique().min() >= 2
    topics = pd.DataFrame(profiles).groupby(["user_id", "cutoff"])["topic"]
    assert topics.nunique().equals(topics.size())
    assert topics.size().max() == CONFIG.topics == 3
    names = {topic["name"] for topic in manifest.pool}
    assert {row["topic"] for row in profiles} <= names
    assert "space travel" not in names
    # The first topic of most users who sail to Oslo is northern ports.
    first = {row["user_id"]: row["topic"] for row in reversed(profiles)}
    sailors = [topic for user, topic in first.items() if int(user[1:]) % 2 == 0]
    assert sailors.count("northern ports") > len(sailors) / 2


def test_the_grounded_writer_says_nothing_but_its_facts(tmp_path: Path) -> None:
    manifest = build(tmp_path / "set")
    assert set(manifest.counts["verdict"]) == {"supported"}
    assert manifest.faults == {}
    for row in rows_of(tmp_path / "set", "uqa") + rows_of(tmp_path / "set", "future"):
        says = {fact["name"]: fact["says"] for fact in row["facts"]}
        assert row["answer"] == " ".join(says[name] for name in row["facts_used"])


def test_points_of_a_block_are_asked_the_same_about_the_future(tmp_path: Path) -> None:
    build(tmp_path / "set")
    blocks = pd.DataFrame(rows_of(tmp_path / "set", "future")).groupby(["block", "days", "kind", "topic"])
    assert (blocks["question"].nunique() == 1).all()


def test_the_same_seed_gives_the_same_set_and_another_seed_another(tmp_path: Path) -> None:
    one, same = build(tmp_path / "one"), build(tmp_path / "same")
    other = build(tmp_path / "other", config=replace(CONFIG, seed=1))
    assert one.content_hash == same.content_hash != other.content_hash
    assert read_pairs(tmp_path / "one").equals(read_pairs(tmp_path / "same"))


def test_the_manifest_counts_what_the_files_hold(tmp_path: Path) -> None:
    build(tmp_path / "set")
    manifest, table = read_manifest(tmp_path / "set"), read_pairs(tmp_path / "set")
    assert sum(manifest.counts["dataset"].values()) == table.num_rows == sum(manifest.words.values())
    assert manifest.users == len(set(table["user_id"].to_pylist()))
    assert manifest.until == UNTIL
    assert manifest.complete
    assert len(set(table["pair_id"].to_pylist())) == table.num_rows
    assert manifest.build["writer"] == "grounded"


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    build(tmp_path / "set")
    before = (tmp_path / "set" / PAIRS).read_bytes()
    with pytest.raises(InputError, match="exists already"):
        build(tmp_path / "set")
    assert (tmp_path / "set" / PAIRS).read_bytes() == before


class _Interrupting(Silent):
    def advance(self, steps: int = 1, note: str = "") -> None:
        raise KeyboardInterrupt


def test_an_interrupted_build_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.training.useru.worlds.Silent", _Interrupting)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "sets" / "set")
    assert list((tmp_path / "sets").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": 1'])
def test_a_damaged_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    build(tmp_path / "set")
    (tmp_path / "set" / MANIFEST).write_bytes(content)
    with pytest.raises(NotReady, match="damaged"):
        read_manifest(tmp_path / "set")


def test_damaged_pairs_are_refused(tmp_path: Path) -> None:
    build(tmp_path / "set")
    (tmp_path / "set" / PAIRS).write_bytes(b"PAR1")
    with pytest.raises(NotReady, match="cannot be read"):
        read_pairs(tmp_path / "set")


def test_blocks_are_of_sixteen(tmp_path: Path) -> None:
    build(tmp_path / "set")
    blocks = pd.DataFrame(rows_of(tmp_path / "set", "future")).groupby("block")
    sizes = blocks.apply(lambda rows: len(rows.groupby(["user_id", "cutoff"])), include_groups=False)
    assert sizes.iloc[:-1].eq(module.BLOCK).all()
