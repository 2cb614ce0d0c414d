"""The loop of `--watch`."""

import os
import signal
import time

import pytest

from cli.watch import run_until_signal
from qanchor.errors import InputError, NotReady


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_loop_after_the_step_under_way(number: signal.Signals) -> None:
    before, steps = signal.getsignal(number), list[str]()

    def step() -> None:
        steps.append("begun")
        if len(steps) == 3:
            os.kill(os.getpid(), number)
        steps.append("done")

    run_until_signal(step, 0.01)
    assert steps == ["begun", "done"] * 2
    assert signal.getsignal(number) == before


def test_steps_begin_at_the_interval_however_long_they_take() -> None:
    begun: list[float] = []

    def step() -> None:
        begun.append(time.monotonic())
        time.sleep(0.1)
        if len(begun) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    run_until_signal(step, 0.2)
    assert begun[2] - begun[0] >= 0.35


def test_a_step_that_cannot_work_for_now_is_reported_and_tried_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps: list[int] = []

    def step() -> None:
        steps.append(1)
        if len(steps) == 1:
            raise NotReady("another refresh is running", "Wait for it.")
        os.kill(os.getpid(), signal.SIGTERM)

    run_until_signal(step, 0.01)
    assert len(steps) == 2
    assert capsys.readouterr().err == "warning: another refresh is running. Wait for it.\n"


def test_an_error_that_stays_ends_the_loop() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def step() -> None:
        raise InputError("no such scenario", "Name another.")

    with pytest.raises(InputError):
        run_until_signal(step, 0.01)
    assert signal.getsignal(signal.SIGTERM) == before
