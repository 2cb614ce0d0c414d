"""`qanchor-cli monitor`: what it shows, keeps and exits with."""

import json
import os
import signal
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cli.app import run_command
from cli.operate.monitor import show_results
from qanchor.monitoring.checks import Check
from qanchor.monitoring.monitor import ScenarioHealth
from qanchor.site import Site
from tests.unit.monitoring.service import Service, copied, healthy_service

pytestmark = pytest.mark.xdist_group("monitor")

TODAY = "2026-04-15T12:00:00"


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Service:
    return healthy_service(tmp_path_factory.mktemp("healthy"))


@pytest.fixture
def service(healthy: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    (tmp_path / "modalities.yaml").write_text("modalities: {bill: {text: paid, fields: {}}}\n")
    (tmp_path / "scenarios.yaml").write_text(
        "scenarios: {risk: {domain: risk, query: Will it happen at all}}\n"
    )
    monkeypatch.setenv("QANCHOR_REPO", str(tmp_path))
    monkeypatch.setenv("QANCHOR_HOME", str(tmp_path / "home"))
    made = copied(healthy, tmp_path)
    monkeypatch.setattr(Site, "open", lambda: made.site)
    return made


def test_a_healthy_head_exits_with_zero_and_shows_every_figure(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["monitor", "--all", "--at", TODAY]) == 0
    shown = capsys.readouterr()
    for words in ("risk as of 2026-04-15 12:00 UTC", "score_psi", "<= 0.25", "calibration by month"):
        assert words in shown.out
    assert (shown.err, "ALARM" in shown.out) == ("", False)


def test_an_alarm_is_said_and_exits_with_one(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.publish(35, service.calibrated**0.3)
    file = tmp_path / "risk.prom"
    arguments = ["monitor", "--scenario", "risk", "--at", TODAY, "--json", "--textfile", str(file)]
    assert run_command(arguments) == 1
    (document,) = json.loads(capsys.readouterr().out)
    assert (document["scenario"], document["alarms"]) == ("risk", ["score_psi"])
    assert {check["name"]: check["state"] for check in document["checks"]}["score_psi"] == "alarm"
    assert 'qanchor_monitor_alarm{check="score_psi",scenario="risk"} 1.0' in file.read_text()
    assert run_command(["monitor", "--scenario", "risk", "--at", TODAY]) == 1
    assert "alarm: risk: score_psi is" in capsys.readouterr().err


def test_looks_are_kept_and_can_be_read_again(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    for moment in ("2026-04-14", TODAY, "2026-05-20"):
        run_command(["monitor", "--scenario", "risk", "--at", moment])
    capsys.readouterr()
    assert run_command(["monitor", "--scenario", "risk", "--history", "2"]) == 0
    shown = capsys.readouterr().out
    assert "2026-04-14" not in shown
    assert "2026-04-15 12:00  none" in shown
    assert "embedding_age_days" in shown
    assert run_command(["monitor", "--scenario", "risk", "--history", "1", "--json"]) == 0
    assert {row["at"] for row in json.loads(capsys.readouterr().out)} == {"2026-05-20T00:00:00Z"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "no scenario is given"),
        (["--scenario", "nonsense"], 2, "scenario 'nonsense' does not exist"),
        (["--all", "--metrics-port", "9000"], 2, "--metrics-port needs --watch"),
        (["--all", "--watch", "5", "--at", TODAY], 2, "--watch checks the present"),
        (["--all", "--textfile", "figures.txt"], 2, "figures.txt does not end in .prom"),
    ],
)
def test_a_fault_is_one_line_with_its_exit_code(
    service: Service, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert run_command(["monitor", *arguments]) == code
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
    # Nothing was looked at, so nothing is kept.
    assert not service.site.home.monitoring.exists()


def test_watching_says_an_alarm_once_and_ends_on_a_signal(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    file = tmp_path / "risk.prom"

    def end_it() -> None:
        # Two looks: the second begins a second after the first.
        while not file.exists():
            time.sleep(0.05)
        time.sleep(1.5)
        os.kill(os.getpid(), signal.SIGTERM)

    ender = threading.Thread(target=end_it)
    ender.start()
    try:
        assert run_command(["monitor", "--scenario", "risk", "--watch", "1", "--textfile", str(file)]) == 0
    finally:
        ender.join()
        for number, handler in before.items():
            signal.signal(number, handler)
    # It is long after the day of the last scores.
    assert capsys.readouterr().err.count("alarm: risk: score_age_days") == 1


def test_several_scenarios_are_a_matrix_and_verbose_adds_the_values(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    at = datetime(2026, 4, 15, 12, tzinfo=UTC)
    alarm, fine = Check("score_psi", 0.4, 0.25, "alarm"), Check("embedding_psi", 0.1, 0.25, "ok")
    unknown = Check("score_psi", None, 0.25, "unknown", note="no score")
    results = [
        ScenarioHealth("cash_loan", at, "h1", (fine, alarm), (), ()),
        ScenarioHealth("money", at, "h2", (fine, unknown), (), ()),
    ]
    show_results(results, verbose=False)
    shown = capsys.readouterr()
    assert [line.split() for line in shown.out.splitlines()[1:4]] == [
        ["check", "cash_loan", "money"],
        ["embedding_psi", "ok", "ok"],
        ["score_psi", "ALARM", "-"],
    ]
    assert shown.out.count("\n") == 5
    assert "alarm: cash_loan: score_psi is 0.4" in shown.err
    show_results(results, verbose=True)
    assert "money as of 2026-04-15 12:00 UTC" in capsys.readouterr().out
