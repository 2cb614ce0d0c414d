"""The demo in miniature: every link of the chain, by the commands that a user types, on a small world."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from qanchor.shipped import template_folder

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.xdist_group(name="demo"),
]
# Of the ten, four that have both classes in every part of so small a world.
_SCENARIOS = ("money", "login", "takeout", "brand")
_USERS = "500"


class Demo:
    """A finished demo: its folder, what it printed, and its workspace's commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "world" / "work"
        self.home = self.work / ".qanchor"
        self.printed = self.run()

    def run(self) -> str:
        """Run the demo, or what is left of it."""
        repository = self.folder / "repository"
        repository.mkdir(exist_ok=True)
        shutil.copy(template_folder() / "modalities.yaml", repository)
        scenarios = yaml.safe_load((template_folder() / "scenarios.yaml").read_text())
        scenarios["scenarios"] = {name: scenarios["scenarios"][name] for name in _SCENARIOS}
        (repository / "scenarios.yaml").write_text(yaml.safe_dump(scenarios))
        size = ("--users", _USERS, "--minutes", "0.1")
        return self.call("demo", *size, "--repo", str(repository), "--dir", str(self.folder), cwd=self.folder)

    def call(self, *arguments: str, cwd: Path | None = None) -> str:
        """Run one command in the demo's workspace; it must succeed."""
        done = self.attempt(*arguments, cwd=cwd)
        assert done.returncode == 0, f"{arguments}: {done.stderr[-3000:]}"
        return done.stdout

    def attempt(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run one command in the demo's workspace."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("QANCHOR_")}
        environment["OMP_NUM_THREADS"] = "1"
        return subprocess.run(
            [sys.executable, "-m", "cli", *arguments],
            cwd=cwd or self.work,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=800,
        )

    def status(self) -> dict[str, Any]:
        """What `status --json` says."""
        answer: dict[str, Any] = json.loads(self.call("status", "--json"))
        return answer


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """One run of the demo, shared by this module's tests."""
    return Demo(tmp_path_factory.mktemp("demo"))


def test_the_demo_ends_with_a_report_of_every_scenario(demo: Demo) -> None:
    report = (demo.home / "reports" / "report.html").read_text()
    figures = json.loads((demo.home / "reports" / "report.json").read_text())
    assert {row["scenario"] for row in figures["scenarios"]} == set(_SCENARIOS)
    assert "http://" not in report.replace("http://www.w3.org", "")
    assert "peak memory" in demo.printed


def test_running_the_demo_again_does_nothing_twice(demo: Demo) -> None:
    before = demo.status()
    printed = demo.run()
    assert printed.count("done by an earlier run") >= 10
    assert demo.status() == before


def test_backfilling_again_changes_no_vector(demo: Demo) -> None:
    def hashes() -> dict[str, str]:
        with closing(sqlite3.connect(demo.home / "qanchor.db")) as database:
            query = "SELECT scenario, content_hash FROM embedding_manifests WHERE state = 'active'"
            return dict(database.execute(query).fetchall())

    before = hashes()
    demo.call("backfill", "--all")
    assert hashes() == before
    assert set(before) == set(_SCENARIOS)


def test_lookalikes_are_ranked_and_are_not_the_seeds(demo: Demo) -> None:
    seeds = (demo.folder / "world" / "seeds.txt").read_text().split()
    found = json.loads(
        demo.call(
            "lookalike",
            "--scenario",
            "takeout",
            "--seeds",
            str(demo.folder / "world" / "seeds.txt"),
            "-k",
            "5",
            "--json",
        )
    )["users"]
    assert [row["rank"] for row in found] == [1, 2, 3, 4, 5]
    assert not {row["user_id"] for row in found} & set(seeds)
    scores = [row["score"] for row in found]
    assert scores == sorted(scores, reverse=True)
