"""Thread pools are bounded whatever was loaded first, and wait asleep."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from qanchor.threads import ahead, thread_count


@pytest.mark.parametrize("order", ["import torch; limit_threads(1)", "limit_threads(1); import torch"])
def test_the_bound_holds_in_either_order(order: str) -> None:
    script = (
        f"from qanchor.threads import limit_threads; {order}; import torch; print(torch.get_num_threads())"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script], env={"PATH": "/usr/bin"}, capture_output=True, text=True, check=True
    ).stdout
    assert shown.strip() == "1"


def test_the_command_line_lets_waiting_threads_sleep_before_any_command_loads_them() -> None:
    script = "import os, cli.app; cli.app.run_command(['--help']); print(os.environ['OMP_WAIT_POLICY'])"
    shown = subprocess.run(
        [sys.executable, "-c", script], env={"PATH": "/usr/bin"}, capture_output=True, text=True, check=True
    ).stdout
    assert shown.endswith("PASSIVE\n")


@pytest.mark.parametrize(("said", "count"), [("3", 3), ("3,1", 3), ("", None), ("0", None), ("many", None)])
def test_the_number_of_threads_is_what_the_environment_says_else_the_cores(
    monkeypatch: pytest.MonkeyPatch, said: str, count: int | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert thread_count() == (count or len(os.sched_getaffinity(0)))


def test_items_come_in_order_and_are_made_ahead_up_to_the_limit() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    seen = []
    for number in ahead(numbers(), most=3):
        seen.append(number)
        time.sleep(0.002)
        assert len(made) <= len(seen) + 3
    assert seen == made == list(range(20))


def test_an_error_of_the_maker_comes_in_its_place() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("no second one")

    items = ahead(broken())
    assert next(items) == 1
    with pytest.raises(ValueError, match="no second one"):
        next(items)


def test_a_caller_that_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    items = ahead(iter(range(1000)), most=4)
    next(items)
    items.close()
    assert threading.active_count() == before
