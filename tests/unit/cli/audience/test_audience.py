"""The audience commands as a user types them; every error is one line."""

from pathlib import Path

import numpy as np
import pytest

from qanchor.audience.describe import Words
from qanchor.audience.scorers import DirectionScorer
from tests.unit.cli.conftest import Run, run_json
from tests.unit.embedding.world import World, add_events


@pytest.fixture
def peopled(world: World, run: Run, tmp_path: Path) -> tuple[str, Run]:
    """Sixty users with vectors and indexes; a file of twenty seeds."""
    users = [f"u{number:02d}" for number in range(60)]
    add_events(
        world.home,
        world.workspace,
        [(user, 1 + 0.1 * n, "bill" if n % 2 else "card") for n, user in enumerate(users)],
    )
    run("backfill", "--scenario", "money")
    run("index", "build", "--scenario", "money")
    seeds = tmp_path / "seeds.txt"
    seeds.write_text("\n".join(users[:20]))
    return str(seeds), run


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real model is replaced by one direction."""
    read = Words("tea", ("corner",), True, DirectionScorer(np.eye(128, dtype=np.float32)[:1]))
    monkeypatch.setattr("qanchor.audience.describe.read_words", lambda *_: read)


def test_quality_shows_lift_overlap_profile_and_draws_the_curve(
    peopled: tuple[str, Run], tmp_path: Path
) -> None:
    seeds, run = peopled
    chart = tmp_path / "lift.png"
    asked = ("audience", "quality", "--scenario", "money", "--seeds", seeds, "-k", "10")
    code, out, err = run(*asked, "--method", "centroid", "--chart", str(chart))
    assert code == 0, err
    assert "20 held-out seeds looked for among 43 users" in out
    assert "overlap:" in out
    assert chart.read_bytes().startswith(b"\x89PNG")
    content = run_json(run, *asked)
    assert content["held_out_seeds"] == 20
    assert {point["share"] for point in content["points"]} >= {0.05, 10 / 43}


def test_an_audience_in_words_is_held_against_the_events(
    peopled: tuple[str, Run], words: None, tmp_path: Path
) -> None:
    seeds, run = peopled
    asked = ("audience", "describe", "--scenario", "money", "--text", "tea", "-k", "12")
    code, out, err = run(*asked)
    assert code == 0, err
    assert "like the words corner; among 63 users" in out
    assert "events that name these words" in out
    assert "no words were aligned with" in err
    both = run_json(run, *asked, "--seeds", seeds, "--text-weight", "0.2")
    assert len(both["users"]) == 12
    assert both["seeds"] == 20


def test_audiences_are_saved_shown_replayed_and_combined(peopled: tuple[str, Run], tmp_path: Path) -> None:
    seeds, run = peopled
    saved = run_json(run, "audience", "save", "one", "--scenario", "money", "--seeds", seeds, "-k", "20")
    assert (saved["users"], saved["kind"]) == (20, "lookalike")
    run("audience", "save", "two", "--scenario", "money", "--seeds", seeds, "-k", "9", "--method", "nearest")
    assert [row["name"] for row in run_json(run, "audience", "list")["audiences"]] == ["two", "one"]
    assert "the same 20 users in the same order" in run("audience", "replay", "one")[1]
    assert run_json(run, "audience", "replay", "one")["same"] is True
    pair = run_json(run, "audience", "overlap", "one", "two")["pairs"][0]
    union = run_json(run, "audience", "union", "one", "two", "--into", "any")
    assert union["users"] == 29 - pair["both"]
    out = tmp_path / "one.csv"
    code, shown, err = run("audience", "show", "one", "--out", str(out))
    assert (code, "wrote 20 rows" in err, "u" in shown) == (0, True, True)
    assert len(out.read_text().splitlines()) == 21
    run("backfill", "--scenario", "money", "--as-of", "2026-01-20")
    run("index", "build", "--scenario", "money")
    assert "changed: the embeddings are as of 2026-01-20" in run("audience", "replay", "one")[1]
    run("backfill", "--scenario", "money", "--as-of", "2026-01-04")
    run("index", "build", "--scenario", "money")
    code, _, err = run("audience", "replay", "one")
    assert (code, err.count("\n")) == (2, 1)
    assert "cannot be made again: 20 users are requested" in err
    assert "; the embeddings are as of 2026-01-0" in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("show", "nobody"), 2, "there is no audience 'nobody'"),
        (("replay", "nobody"), 2, "there is no audience 'nobody'"),
        (("union", "one", "--into", "x"), 2, "one audience alone"),
        (("save", "Bad Name", "--scenario", "money", "--seeds", "SEEDS"), 2, "is invalid"),
        (("save", "x", "--scenario", "money"), 2, "neither seeds nor words"),
        (("save", "x", "--scenario", "nope", "--seeds", "SEEDS"), 2, "'nope' does not exist"),
        (("quality", "--scenario", "money", "--seeds", "SEEDS", "--chart", "a.gif"), 2, "cannot be written"),
        (("quality", "--scenario", "takeout", "--seeds", "SEEDS"), 3, "index build --scenario takeout"),
        (("describe", "--scenario", "money", "--text", " "), 2, "the text has 0 characters"),
    ],
)
def test_invalid_requests_are_refused_in_one_line(
    peopled: tuple[str, Run], arguments: tuple[str, ...], code: int, said: str
) -> None:
    seeds, run = peopled
    given = tuple(seeds if argument == "SEEDS" else argument for argument in arguments)
    found, out, err = run("audience", *given)
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert said in err


def test_an_empty_list_says_how_to_begin(empty_home: Path, run: Run) -> None:
    assert "audience save NAME" in run("audience", "list")[1]
