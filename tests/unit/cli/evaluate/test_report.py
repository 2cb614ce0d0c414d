"""report and explain, where they cannot be had."""

from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.embedding.world import World


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("report", "--all"), 3, "qanchor-cli head train --all"),
        (("report", "--scenario", "nope"), 2, "'nope' does not exist"),
        (("report", "--all", "--scenario", "money"), 2, "both"),
        (
            (
                "scenarios",
                "explain",
            ),
            2,
            "no scenario is given",
        ),
        (("scenarios", "explain", "--scenario", "money"), 3, "qanchor-cli head train --all"),
        (("scenarios", "explain", "--scenario", "nope"), 2, "'nope' does not exist"),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    world: World, run: Run, arguments: tuple[str, ...], code: int, message: str
) -> None:
    exit_code, out, err = run(*arguments)
    assert (exit_code, out) == (code, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_page_that_cannot_be_written_is_refused_before_the_work(
    world: World, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for command, path in (("report", str(tmp_path)), ("report", str(tmp_path / "file" / "report.html"))):
        code, _, err = run(command, "--all", "--out", path)
        assert (code, err.count("\n")) == (2, 1)
    code, _, err = run(
        "scenarios", "explain", "--scenario", "money", "--out", str(tmp_path / "file" / "charts")
    )
    assert (code, err.count("\n")) == (2, 1)
    assert "--out" in err


def test_the_old_name_of_explain_works_and_names_the_new_one(empty_home: Path, run: Run) -> None:
    code, _, err = run("explain", "--scenario", "money")
    assert code == 3
    assert err.startswith("warning: `qanchor-cli explain` is now `qanchor-cli scenarios explain`")
    assert run("scenarios", "explain", "--scenario", "money")[2] in err
