"""The steps of the demo: their commands and order, their time and memory."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import typer

from cli.output import print_table
from qanchor.errors import BrokerUnavailable
from qanchor.files import write_atomically
from qanchor.shipped import template_folder
from qanchor.workspace import load_workspace

_CLI = (sys.executable, "-m", "cli")


@dataclass(frozen=True)
class DemoPlan:
    """Input and options of a demo.

    Args:
        target: folder of the demo; its workspace is `target/work`.
        data: folder of real input; None: a simulated world.
        repo: folder of the two yaml files of that input.
        users: number of simulated users.
        seed: seed of the simulation.
        minutes: time of pre-training.
        end: last day of the simulated world, as 2026-08-28; None: the default of `simulate`.
    """

    target: Path
    data: Path | None
    repo: Path | None
    users: int
    seed: int
    minutes: float
    end: str | None = None

    @property
    def work(self) -> Path:
        """The workspace, as `qanchor-cli new` scaffolds it."""
        return self.target / "work"

    @property
    def input(self) -> Path:
        """The folder of events and labels."""
        return self.data or self.target / "input"


@dataclass
class _Run:
    plan: DemoPlan
    environment: dict[str, str]
    rows: list[dict[str, object]] = field(default_factory=list)

    @property
    def _journal(self) -> Path:
        return self.plan.target / "steps.json"

    def finished(self) -> list[str]:
        """Names of the steps that an earlier run finished."""
        return list(json.loads(self._journal.read_text())) if self._journal.exists() else []

    def step(self, name: str, *commands: Sequence[str], cwd: Path | None = None) -> None:
        """Run commands one after the other, unless an earlier run of the demo finished this step."""
        finished = self.finished()
        if name in finished:
            self.rows.append({"step": name, "seconds": None, "note": "done by an earlier run"})
            return
        began = time.monotonic()
        for command in commands:
            self.call(command, cwd or self.plan.work)
        self.rows.append({"step": name, "seconds": round(time.monotonic() - began, 1), "note": ""})
        write_atomically(self._journal, json.dumps([*finished, name]))

    def call(self, command: Sequence[str], cwd: Path) -> None:
        """Print a command and run it; a failure ends the demo with that command's exit code."""
        is_ours = command[0] == sys.executable
        line = " ".join(["qanchor-cli", *command[len(_CLI) :]] if is_ours else ["feast", *command[1:]])
        typer.secho(f"\n$ {line}", bold=True)
        sys.stdout.flush()
        code = subprocess.run(command, cwd=cwd, env=self.environment, check=False).returncode
        if code:
            typer.secho(f"the demo stopped here; repair the cause and run it again: {line}", err=True)
            raise typer.Exit(code)


def _cli(*arguments: str) -> tuple[str, ...]:
    return (*_CLI, *arguments)


def _feast(*arguments: str) -> tuple[str, ...]:
    return (str(Path(sys.executable).with_name("feast")), *arguments)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _broker(run: _Run) -> Iterator[None]:
    port = int(run.environment["QANCHOR_KAFKA__BROKERS"].rsplit(":", 1)[1])
    command = _cli("broker", "--port", str(port))
    typer.secho("\n$ qanchor-cli broker &", bold=True)
    process = subprocess.Popen(command, cwd=run.plan.work, env=run.environment)
    try:
        deadline = time.monotonic() + 30
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BrokerUnavailable(
                    "the embedded broker did not start", "Run `qanchor-cli broker` to see why."
                )
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class _MemoryWatch:
    """Peak resident memory of this process and its children, sampled twice a second."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil

        me = psutil.Process()
        while not self._stop.wait(0.5):
            total = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak_bytes = max(self.peak_bytes, total)


def _stream(run: _Run) -> None:
    if "stream" in run.finished():
        run.step("stream")
        return
    with _broker(run):
        files = sorted(str(path) for path in run.plan.input.glob("events*.parquet"))
        run.step("stream", *(_cli("produce", file) for file in files), _cli("consume", "--stop-at-end"))


def _label_files(plan: DemoPlan) -> dict[str, Path]:
    """The input files of the scenarios whose labels are loaded."""
    loaded = {path.stem for path in (plan.work / ".qanchor" / "labels").glob("*.parquet")}
    scenarios = [name for name in load_workspace(plan.work / "feature_repo").scenarios if name in loaded]
    files = {path.stem.lower(): path for path in sorted((plan.input / "labels").glob("*.parquet"))}
    return {name: files[name] for name in scenarios if name in files}


def _marketing_scenario(plan: DemoPlan, labelled: list[str]) -> str:
    scenarios = load_workspace(plan.work / "feature_repo").scenarios
    return next((name for name in labelled if scenarios[name].domain == "marketing"), labelled[0])


def _write_seeds(plan: DemoPlan, labels: Path) -> Path:
    """Fifty users with a positive training label, as a marketer would take from the last campaign."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(labels)
    table = table.filter(pc.equal(table["label"], 1))
    if "split" in table.column_names:
        table = table.filter(pc.equal(table["split"], "train"))
    users = list(dict.fromkeys(table["user_id"].to_pylist()))[:50]
    path = plan.target / "seeds.txt"
    path.write_text("\n".join(users) + "\n")
    return path


def run_plan(plan: DemoPlan) -> None:
    """Run every step that is not finished, then print times, memory and the path of the report.

    Args:
        plan: input and options.
    """
    environment = {
        **os.environ,
        "QANCHOR_HOME": str(plan.work / ".qanchor"),
        "QANCHOR_REPO": str(plan.work / "feature_repo"),
        "QANCHOR_KAFKA__BROKERS": f"127.0.0.1:{_free_port()}",
    }
    run = _Run(plan, environment)
    began = time.monotonic()
    with _MemoryWatch() as memory:
        _run_steps(run)
    typer.echo("")
    print_table("What the demo took", run.rows)
    peak = memory.peak_bytes / 2**30
    typer.echo(f"total {time.monotonic() - began:.0f} s, peak memory {peak:.2f} GiB over all its processes")
    typer.secho(f"report: {plan.work / '.qanchor' / 'reports' / 'report.html'}", bold=True)


def _run_steps(run: _Run) -> None:
    plan = run.plan
    if plan.data is None:
        size = ("--users", str(plan.users), "--seed", str(plan.seed))
        dates = ("--end", plan.end) if plan.end else ()
        run.step("simulate", _cli("simulate", *size, *dates, "--out", str(plan.input)), cwd=plan.target)
    source = plan.repo or template_folder()
    run.step("new repository", _cli("new", str(plan.work), "--from", str(source)), cwd=plan.target)
    _stream(run)
    # Of a small simulated world, a scenario may have one of the labels only in some part.
    skip = () if plan.data else ("--skip-incomplete",)
    run.step("labels", _cli("labels", "load", "--all", str(plan.input / "labels"), *skip))
    labels = _label_files(plan)
    run.step("feast apply", _feast("apply"), cwd=plan.work / "feature_repo")
    run.step("pretrain", _cli("pretrain", "--minutes", str(plan.minutes)))
    run.step("tune", _cli("tune", "--all", "--steps", "120"))
    run.step("backfill", _cli("backfill", "--all"))
    run.step("index", _cli("index", "build", "--all"))
    scenario = _marketing_scenario(plan, list(labels))
    seeds = _write_seeds(plan, labels[scenario])
    run.step("lookalike", _cli("lookalike", "--scenario", scenario, "--seeds", str(seeds), "-k", "10"))
    run.step("heads", _cli("head", "train", "--all"))
    run.step("report", _cli("report", "--all"))
    run.step("status", _cli("status"))
