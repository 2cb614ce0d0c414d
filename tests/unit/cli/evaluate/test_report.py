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
        (("explain",), 2, "no scenario is given"),
        (("explain", "--scenario", "money"), 3, "qanchor-cli head train --all"),
        (("explain", "--scenario", "nope"), 2, "'nope' does not exist"),
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
    code, _, err = run("explain", "--scenario", "money", "--out", str(tmp_path / "file" / "charts"))
    assert (code, err.count("\n")) == (2, 1)
    assert "--out" in err
