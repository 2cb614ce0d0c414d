"""Training in several processes, and training that is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qanchor.training.distributed import Ranks
from qanchor.training.pretrain import Execution
from tests.integration.training_worker import RANKS_STEPS, gradients, run

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("training-processes")]
WORKER = "tests.integration.training_worker"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def test_two_processes_give_the_gradients_and_losses_of_one_with_the_joint_batch(tmp_path: Path) -> None:
    launch = ["torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command = [sys.executable, "-m", *launch, "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    done = subprocess.run(
        [*command, "-m", WORKER, "gradients", str(tmp_path)],
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["count"] == 2
    assert not figures["differs"]
    losses, expected = gradients(Ranks(), (0,))[0]
    largest = max(float(value.abs().max()) for value in expected.values())
    assert largest > 0.01
    for size in ("0", "2"):
        assert figures["losses"][size] == pytest.approx(losses.numbers(), abs=2e-5)
        joint = load_file(str(tmp_path / f"gradients-{size}.safetensors"))
        assert joint.keys() == expected.keys()
        for name, value in expected.items():
            assert float((value - joint[name]).abs().max()) <= 1e-5 * max(1.0, largest), name
    alone = run(Execution(), steps=RANKS_STEPS).metrics["contrastive_loss"]
    assert figures["contrastive"] == pytest.approx(alone, abs=1e-3)


def test_a_run_killed_on_the_spot_goes_on_to_the_same_losses_and_weights(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-m", WORKER, "run", str(tmp_path)], env=_environment())
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("*/step-000000[4-9]")) and time.monotonic() < deadline:
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    # Two, if it was killed between writing the newer and deleting the older one.
    kept = sorted(path.name.removeprefix("step-") for path in tmp_path.glob("*/step-*"))
    assert 1 <= len(kept) <= 2
    assert 4 <= int(kept[-1]) < 12
    whole, resumed = run(Execution()), run(Execution(run_dir=tmp_path))
    for name in ("contrastive_loss", "next_token_loss", "summary_loss"):
        assert len(whole.metrics[name]) == 12
        assert resumed.metrics[name] == whole.metrics[name], name
    theirs = whole.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in resumed.model.state_dict().items())
