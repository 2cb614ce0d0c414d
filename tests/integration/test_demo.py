"""The demo in miniature: every link of the chain, by the commands that a user types, on a small world.

In its workspace, the README's commands and lines of Python run as they are printed.
"""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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
_ROOT = Path(__file__).resolve().parents[2]


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


def snippets(section: str) -> list[str]:
    """The code blocks of a section of the README, without their indent."""
    text = (_ROOT / "README.md").read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"(?:^(?: {4}.*)?\n)+", text, re.MULTILINE)
    return [textwrap.dedent(block) for block in blocks if block.strip()]


def bash(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the lines of a snippet as a shell would; each must succeed."""
    names = {name: value for name, value in os.environ.items() if not name.startswith("QANCHOR_")}
    path = f"{Path(sys.executable).parent}:{names['PATH']}"
    return subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script],
        cwd=folder,
        env=names | {"PATH": path, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )


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


def test_the_readme_prints_commands_that_the_demo_runs(demo: Demo) -> None:
    transcript = snippets("Ten minutes of first steps")[0]
    commands = re.findall(r"^\$ (?:qanchor-cli|feast) .*", transcript, re.MULTILINE)
    assert len(commands) >= 10
    for command in commands:
        words = [word for word in command.split() if not re.search(r"[./\d]|^labels$|takeout", word)]
        shown = [line for line in demo.printed.splitlines() if set(words) <= set(line.split())]
        assert shown, command


def test_looking_around_works_as_the_readme_prints_it(demo: Demo, tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / ".demo").symlink_to(demo.folder)
    script = snippets("Ten minutes of first steps")[1]
    assert "feast ui --host 127.0.0.1\n" in script  # by default it would listen on every address
    done = bash(script.replace("feast ui --host 127.0.0.1", "feast ui --help"), tmp_path)
    # A null vector, an alarm or exit code 3 would say that the world is too old.
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "null" not in done.stdout
    assert "ALARM" not in done.stdout
    assert "alarm" not in done.stderr


def test_the_readme_embeds_users_by_the_library(demo: Demo) -> None:
    script = snippets("As a library")[0] + "assert len(users) == len(vectors) > 400"
    done = bash(f"python - <<'END'\n{script}\nEND", demo.work)
    assert done.returncode == 0, done.stderr[-2000:]


def test_your_own_data_take_the_readmes_commands(tmp_path: Path) -> None:
    write_shop(tmp_path)
    script = snippets("Your own data")[0]
    for slow, quick in (("pretrain", "pretrain --minutes 0.1"), ("tune --all", "tune --all --steps 20")):
        assert script.count(f"qanchor-cli {slow} ") == 1
        script = script.replace(f"qanchor-cli {slow} ", f"qanchor-cli {quick} ")
    done = bash(script, tmp_path)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert (tmp_path / "shop" / ".qanchor" / "reports" / "report.html").exists()


def write_shop(folder: Path) -> None:
    """Events and labels of a shop whose customers buy often or seldom, for the files that `new` writes."""
    random, start = np.random.default_rng(0), datetime(2026, 1, 1, tzinfo=UTC)
    rows, labels = [], ["user_id,as_of,label"]
    for number in range(240):
        user, pace = f"c{number:04d}", random.choice([3.0, 20.0])
        days = np.cumsum(random.exponential(pace, 60))
        days = days[days < 180]
        for day in days:
            moment = start + timedelta(days=float(day))
            item = {"user_id": user, "event_time": moment, "modality": "purchase", "category": "tea"}
            rows.append(item | {"item": f"tea {random.integers(9)}", "amount": float(random.integers(1, 50))})
            visit = {"user_id": user, "event_time": moment - timedelta(hours=1), "modality": "visit"}
            rows.append(visit | {"page": f"page {random.integers(5)}"})
        for cutoff in (120, 150):
            bought = bool(((days >= cutoff) & (days < cutoff + 10)).any())
            labels.append(f"{user},{start + timedelta(days=cutoff):%Y-%m-%d},{int(bought)}")
    names = {name: None for row in rows for name in row}
    columns = {name: [row.get(name) for row in rows] for name in names}
    pq.write_table(pa.table(columns), folder / "events.parquet")
    (folder / "labels.csv").write_text("\n".join(labels) + "\n")
