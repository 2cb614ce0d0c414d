"""A serving process takes over a new index without a pause, and keeps the last good one."""

import logging
import threading
import time

import numpy as np
import pytest

from qanchor.audience.index import build_scenario_index
from qanchor.audience.serving import LiveIndex
from qanchor.errors import DatabaseUnavailable, NotReady
from qanchor.site import Site
from tests.unit.audience.published import embed, many


def test_a_new_index_is_taken_over_and_a_running_search_keeps_the_old_one(site: Site) -> None:
    embed(site, many(5))
    build_scenario_index(site, "money")
    live = LiveIndex(site, "money")
    old = live.current
    assert not live.refresh()
    embed(site, many(9))
    row = build_scenario_index(site, "money")
    assert live.refresh()
    assert (live.current.version, live.current.index.size) == (row.version, 9)
    # Its files are gone from the folder; whoever holds it goes on.
    found = old.index.search(old.index.vectors(np.arange(5)), 1)[1]
    assert found[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_a_damaged_index_is_refused_once_and_the_last_good_one_serves(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    embed(site, many(5))
    good = build_scenario_index(site, "money").version
    live = LiveIndex(site, "money")
    path = site.home.root / build_scenario_index(site, "money").path / "00000" / "index.faiss"
    path.write_bytes(path.read_bytes()[:-9])
    with caplog.at_level(logging.ERROR):
        assert [live.refresh() for _ in range(3)] == [False] * 3
    assert [f"keeps={good}" in record.getMessage() for record in caplog.records] == [True]
    assert live.current.version == good
    newest = build_scenario_index(site, "money").version
    assert live.refresh()
    assert live.current.version == newest


def test_a_registry_that_is_away_is_asked_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    embed(site, many(5))
    build_scenario_index(site, "money")
    live = LiveIndex(site, "money")

    def away(*_: object) -> None:
        raise DatabaseUnavailable("the registry database failed", "Start it.")

    newest = build_scenario_index(site, "money").version
    with monkeypatch.context() as patch:
        patch.setattr("qanchor.audience.serving.active_index", away)
        assert not live.refresh()
    assert live.refresh()
    assert live.current.version == newest


def test_searches_go_on_while_indexes_are_exchanged(site: Site) -> None:
    embed(site, many(20))
    build_scenario_index(site, "money")
    failures: list[BaseException] = []
    stop = threading.Event()

    def search(live: LiveIndex) -> None:
        while not stop.is_set():
            try:
                index = live.current.index
                rows = np.arange(index.size)
                assert index.search(index.vectors(rows), 1)[1][:, 0].tolist() == rows.tolist()
            except BaseException as error:  # noqa: BLE001 - a thread's failure is shown by the test
                failures.append(error)
                return

    with LiveIndex(site, "money", poll_seconds=0.02) as live:
        searching = threading.Thread(target=search, args=(live,))
        searching.start()
        for users in (30, 40, 50):
            embed(site, many(users))
            newest = build_scenario_index(site, "money").version
            deadline = time.monotonic() + 10
            while live.current.version != newest and time.monotonic() < deadline:
                time.sleep(0.01)
            assert live.current.index.size == users
        stop.set()
        searching.join()
    assert not failures
    assert not any(thread.name == "index-money" for thread in threading.enumerate())


def test_a_process_does_not_begin_without_an_index(site: Site) -> None:
    with pytest.raises(NotReady, match="index build --scenario money"):
        LiveIndex(site, "money")
