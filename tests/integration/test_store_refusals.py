"""Folders that cannot be used: one line and exit code 4, no traceback."""

import json
import os
from pathlib import Path

import pytest

from tests.integration.brokers import run_command, threaded_broker
from tests.integration.places import Place, make_event, make_events

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("folder", ["events", "events/_staging"])
def test_a_folder_that_cannot_be_used_is_one_line(tmp_path: Path, folder: str) -> None:
    with threaded_broker(tmp_path / "broker") as broker:
        place = Place(tmp_path / "home", broker.address)
        place.produce(make_events(0, 10))
        place.engine.dispose()
        path = place.home / folder
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("in the way")  # root may write to whatever is read-only
        ended = run_command(["consume", "--stop-at-end"], place.env)
        assert ended.returncode == 4, ended.stderr
        assert len(ended.stderr.strip().splitlines()) == 1
        assert str(path) in ended.stderr
        path.unlink()
        assert place.consume().events == 10


def test_both_kinds_of_refused_messages_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    rows = [make_event(0), make_event(1, modality="unheard")]
    names = list(rows[0])
    lines = [",".join(names), *(",".join(str(row[name]) for name in names) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    place = Place(tmp_path / "home", "127.0.0.1:1")
    loaded = run_command(["events", "load", str(path)], place.env)
    assert loaded.returncode == 0, loaded.stderr
    listed = run_command(["deadletters", "list", "--json"], place.env)
    assert listed.returncode == 0, listed.stderr
    content = json.loads(listed.stdout)
    assert content["letters"] is None
    assert [(row["reason"], row["rows"]) for row in content["files"]] == [("unknown_modality", 1)]
    assert os.linesep not in listed.stderr.strip()
