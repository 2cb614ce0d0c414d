"""`useru build` and `useru show` as a user types them."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from qanchor.home import Home
from qanchor.storage.event_log import EventLog
from tests.unit.cli.conftest import Run, run_json
from tests.unit.embedding.world import World, day
from tests.unit.training.useru.fake_model import FakeModel, serving, status

UNTIL = ("--until", "2026-03-01")
_SHOPS = ("coffee bar", "pharmacy", "train tickets", "shoe store", "cinema", "bakery")
SMALL = ("--cutoffs", "2", "--horizons", "7,14")


@pytest.fixture
def events(world: World) -> Home:
    """Months of a few users' shopping, and no label that would say where pre-training has to end."""
    for path in world.home.labels.glob("*.parquet"):
        path.unlink()
    log = EventLog(world.home.events, world.workspace)
    rows = [
        {
            "event_id": f"{user}-{step}",
            "user_id": f"shopper-{user}",
            "event_time": day(1 + step * (1.3 + user / 10)),
            "modality": "bill",
            "shop": _SHOPS[(user + step * (1 + user % 2)) % len(_SHOPS)],  # not the same for everybody
            "amount": 5.0,
            "_partition": 0,
            "_offset": 0,
            "_ingested_at": day(1),
        }
        for user in range(6)
        for step in range(40)
    ]
    log.publish(log.stage(pa.Table.from_pylist(rows, schema=log.schema)))
    log.close()
    return world.home


@pytest.fixture
def model() -> Iterator[FakeModel]:
    """A language model on loopback."""
    with serving() as fake:
        yield fake


def test_a_set_is_built_and_shown(events: Home, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    built = run_json(run, "useru", "build", *UNTIL, *SMALL, "--out", str(folder))
    assert built["complete"]
    assert built["counts"]["dataset"]["future"] > 50
    assert built["counts"]["dataset"]["uqa"] > 5
    code, out, _ = run("useru", "show", str(folder), "--samples", "4")
    assert code == 0
    assert "statements checked" in out
    assert out.count("rests on: ") == 4
    assert "shopper-" in out
    shown = run_json(run, "useru", "show", str(folder), "--samples", "3", "--user", "shopper-2")
    assert shown["content_hash"] == built["content_hash"]
    assert [row["user_id"] for row in shown["samples"]] == ["shopper-2"] * 3


def test_the_newest_set_is_shown_where_none_is_named(events: Home, run: Run) -> None:
    code, _, err = run("useru", "show")
    assert (code, err.count("\n")) == (3, 1)
    assert "useru build" in err
    built = run_json(run, "useru", "build", *UNTIL, *SMALL, "--users", "4")
    assert Path(built["folder"]).parent == events.useru
    assert run_json(run, "useru", "show")["content_hash"] == built["content_hash"]


def test_a_model_writes_and_the_second_build_costs_nothing(
    events: Home, run: Run, model: FakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QANCHOR_LLM__API_KEY", "sesame")
    arguments = ("useru", "build", *UNTIL, *SMALL, "--writer", "llm", "--url", model.url, "--model", "fake")
    first = run_json(run, *arguments, "--out", str(tmp_path / "one"))
    assert first["spending"]["calls"] == len(model.requests) > 5
    assert model.headers[0]["Authorization"] == "Bearer sesame"
    second = run_json(run, *arguments, "--out", str(tmp_path / "two"))
    assert second["spending"]["calls"] == 0
    assert second["content_hash"] == first["content_hash"]
    code, out, _ = run("useru", "show", str(tmp_path / "two"))
    assert code == 0
    assert "replies" in out
    assert not any("sesame" in path.read_text() for path in events.useru.rglob("*.json"))


def test_a_spending_cap_keeps_what_is_done(events: Home, run: Run, model: FakeModel, tmp_path: Path) -> None:
    code, out, _ = run(
        *("useru", "build", *UNTIL, *SMALL, "--writer", "llm", "--url", model.url, "--model", "fake"),
        *("--max-tokens", "2500", "--out", str(tmp_path / "set"), "--parallel", "1"),
    )
    assert code == 0
    assert "not complete: the next call might exceed the spending cap" in out
    assert 0 < len(model.requests) * 120 <= 2500


def test_a_model_that_is_away_is_told_in_one_line(
    events: Home, run: Run, model: FakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QANCHOR_LLM__ATTEMPTS", "1")
    model.then = status(503)
    options = ("--writer", "llm", "--url", model.url, "--model", "fake", "--out", str(tmp_path / "set"))
    code, _, err = run("useru", "build", *UNTIL, *SMALL, *options)
    assert code == 4
    assert err.splitlines()[-1].startswith("error: the model at 127.0.0.1")
    assert (tmp_path / "set" / "useru.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--writer", "poet"), "'poet' is unknown"),
        (("--writer", "llm"), "no language model is named"),
        (("--url", "http://127.0.0.1:1/v1"), "grounded writer uses no model"),
        (("--writer", "llm", "--model-path", "nowhere", "--url", "http://h/v1"), "Name one of them"),
        (("--writer", "llm", "--model-path", "nowhere"), "no model in nowhere"),
        (("--writer", "llm", "--url", "host", "--model", "m"), "not the address"),
        (("--writer", "llm", "--url", "http://h/v1", "--model", "m", "--max-cost", "1"), "limits nothing"),
        (("--horizons", "7,soon"), "is not a list of days"),
        (("--horizons", "0"), "is not a list of days"),
        (("--topic-file", "none.yaml"), "no topic file"),
        (("--until", "someday"), "no date"),
    ],
)
def test_options_that_do_not_hold_are_refused_in_one_line(
    events: Home, run: Run, arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = run("useru", "build", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_folder_in_use_is_refused_before_anything_is_read(
    events: Home, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "mine.txt").write_text("keep")
    monkeypatch.setattr(EventLog, "connect", lambda _: pytest.fail("the log was read"))
    code, _, err = run("useru", "build", *UNTIL, "--out", str(tmp_path / "pairs"))
    assert code == 2
    assert "exists already" in err
    assert (tmp_path / "pairs" / "mine.txt").read_text() == "keep"


def test_a_topic_that_nobody_is_asked_about_is_named(events: Home, run: Run, tmp_path: Path) -> None:
    run_json(run, "useru", "build", *UNTIL, *SMALL, "--out", str(tmp_path / "pairs"))
    code, _, err = run("useru", "show", str(tmp_path / "pairs"), "--topic", "alchemy")
    assert code == 2
    assert "no pair is about topic 'alchemy'" in err


def test_pretraining_refuses_a_folder_without_a_set(events: Home, run: Run, tmp_path: Path) -> None:
    code, _, err = run("pretrain", *UNTIL, "--pairs", str(tmp_path))
    assert code == 3
    assert "no set of pairs" in err
