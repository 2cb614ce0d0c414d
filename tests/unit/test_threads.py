"""Thread pools are bounded whatever was loaded first, and wait asleep."""

import subprocess
import sys

import pytest


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
