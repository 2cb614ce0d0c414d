import pytest
from sqlalchemy import Engine, create_engine

from qanchor.errors import DatabaseUnavailable, OffsetsFenced
from qanchor.registry.ledger import (
    LedgerEntry,
    OffsetRanges,
    StagedFile,
    commit_entry,
    committed_files,
    find_loaded,
    mark_published,
    next_offsets,
)
from qanchor.registry.tables import LoadedFile


def _ranges(**by_partition: tuple[int, int]) -> OffsetRanges:
    return OffsetRanges("g", "t", {int(name[1:]): r for name, r in by_partition.items()})


def test_offsets_move_on_from_where_they_stand(engine: Engine) -> None:
    commit_entry(engine, LedgerEntry(offsets=_ranges(p0=(0, 10), p1=(5, 6))))
    commit_entry(engine, LedgerEntry(offsets=_ranges(p0=(10, 30))))
    assert next_offsets(engine, "g", "t") == {0: 30, 1: 6}
    assert next_offsets(engine, "other", "t") == {}


def test_a_zombie_is_fenced_with_its_files(engine: Engine) -> None:
    commit_entry(engine, LedgerEntry(offsets=_ranges(p0=(0, 10), p1=(0, 10))))
    zombie = LedgerEntry([StagedFile("f", "2026-01-01", 3)], _ranges(p0=(10, 20), p1=(0, 12)))
    with pytest.raises(OffsetsFenced, match="partition 1"):
        commit_entry(engine, zombie)
    assert next_offsets(engine, "g", "t") == {0: 10, 1: 10}
    assert committed_files(engine) == {}


def test_two_first_writers_cannot_both_win(engine: Engine) -> None:
    commit_entry(engine, LedgerEntry(offsets=_ranges(p0=(0, 10))))
    with pytest.raises(OffsetsFenced):
        commit_entry(engine, LedgerEntry(offsets=_ranges(p0=(0, 10))))


def test_files_are_committed_until_they_are_published(engine: Engine) -> None:
    commit_entry(engine, LedgerEntry([StagedFile("a", "2026-01-01", 1), StagedFile("b", "2026-01-02", 1)]))
    commit_entry(engine, LedgerEntry([StagedFile("c", "2026-01-03", 1)], published=["a"]))
    assert committed_files(engine) == {"b": "2026-01-02", "c": "2026-01-03"}
    mark_published(engine, ["b", "c"])
    assert committed_files(engine) == {}


def test_a_loaded_file_is_found_by_its_content(engine: Engine) -> None:
    loaded = LoadedFile(content_hash="h", path="/x", rows=3, rejected=1)
    commit_entry(engine, LedgerEntry(loaded=loaded))
    found = find_loaded(engine, "h")
    assert found is not None
    assert (found.rows, found.rejected) == (3, 1)
    assert find_loaded(engine, "other") is None


def test_a_database_without_tables_is_unavailable() -> None:
    with pytest.raises(DatabaseUnavailable, match="run the command again"):
        next_offsets(create_engine("sqlite://"), "g", "t")
