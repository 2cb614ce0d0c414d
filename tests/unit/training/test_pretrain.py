"""Pre-training: repeatable, resumable, blind to the future, and loud when it fails."""

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from qanchor.errors import BatchTooLarge, CheckpointInvalid, InputError, NotReady, TrainingDiverged
from qanchor.events.history import arrays_from_table
from qanchor.progress import Silent
from qanchor.training import pretrain as module
from qanchor.training.objective import Losses, Objective
from qanchor.training.pretrain import Execution, PretrainConfig, PretrainResult, Visible, train_model
from qanchor.training.pretrain_config import settings_of
from qanchor.training.pretrain_run import is_out_of_memory
from qanchor.training.run_log import save_curves
from qanchor.training.use_cases import choose_until
from qanchor.training.useru.pairs import UserUConfig
from tests.unit.training.worlds import UNTIL, planted_leak, tiny_config, tiny_events, tiny_workspace

WORKSPACE = tiny_workspace()
USERU = UserUConfig(horizons_days=(7, 14), step_days=20, cell=4, questions=2, held_share=0.2)
CONFIG = PretrainConfig(steps=6, points=8, save_every=2, useru=USERU)


@pytest.fixture(autouse=True)
def _small_and_single_threaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "preset_config", lambda preset, workspace: tiny_config(workspace))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _run(
    events: pd.DataFrame | None = None,
    config: PretrainConfig = CONFIG,
    visible: Visible | None = None,
    progress: Any = None,
    execution: Execution | None = None,
) -> PretrainResult:
    arrays = arrays_from_table(tiny_events() if events is None else events, WORKSPACE)
    return train_model(arrays, WORKSPACE, config, visible or Visible(UNTIL), progress or Silent(), execution)


@cache
def _whole_run() -> PretrainResult:
    """The run that interrupted ones are compared with."""
    return _run()


def _same_weights(left: PretrainResult, right: PretrainResult) -> bool:
    theirs = right.model.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in left.model.state_dict().items())


class _Interrupting(Silent):
    """Progress that is interrupted by Ctrl-C after some steps."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.left -= bool(note)
        if self.left < 0:
            raise KeyboardInterrupt


class _Signalling(Silent):
    """Progress that sends a signal to this process after some steps."""

    def __init__(self, number: signal.Signals, after: int) -> None:
        self.number, self.left = number, after

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.left -= bool(note)
        if note and self.left == 0:
            os.kill(os.getpid(), self.number)


def _kept_steps(folder: Path) -> list[int]:
    """Steps whose state is kept, of all runs."""
    return sorted(int(path.name.removeprefix("step-")) for path in (folder / "run").glob("*/step-*"))


def _assert_the_same_run(whole: PretrainResult, resumed: PretrainResult) -> None:
    for name in ("contrastive_loss", "next_token_loss", "summary_loss"):
        assert resumed.metrics[name] == whole.metrics[name], name
    assert _same_weights(whole, resumed)


def _fails_at(step: int, error: Exception | None) -> Any:
    """`Objective._whole` that raises the error at a step, or gives a loss that is not finite."""
    honest = Objective._whole

    def whole(self: Objective, batch: Any, at: int, masked: bool) -> Losses:
        losses = honest(self, batch, at, masked)
        if at != step:
            return losses
        if error is not None:
            raise error
        return replace(losses, next_token=losses.next_token * torch.nan)

    return whole


def _scalars(folder: Path) -> dict[str, list[float]]:
    """What TensorBoard shows of the only run in the folder, by name, in the order of steps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (run,) = folder.iterdir()
    events = EventAccumulator(str(run))
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first = _whole_run()
    assert _same_weights(first, _run())
    assert not _same_weights(first, _run(config=replace(CONFIG, seed=1)))


def test_events_at_or_after_until_and_new_users_change_nothing() -> None:
    assert _same_weights(_whole_run(), _run(planted_leak(tiny_events(), UNTIL)))


def test_an_interrupted_run_continues_to_the_same_losses_and_weights(tmp_path: Path) -> None:
    execution = Execution(run_dir=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        _run(execution=execution, progress=_Interrupting(after=4))
    assert _kept_steps(tmp_path) == [4]
    _assert_the_same_run(_whole_run(), _run(execution=execution))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_the_very_step_and_the_next_try_continues_from_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    execution, config = Execution(run_dir=tmp_path / "run"), replace(CONFIG, save_every=100)
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        _run(config=config, execution=execution, progress=_Signalling(number, after=3))
    assert _kept_steps(tmp_path) == [3]
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    _assert_the_same_run(_whole_run(), _run(config=config, execution=execution))


def test_a_run_in_parts_takes_over_from_a_whole_batch_that_did_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = Execution(run_dir=tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Objective, "_whole", _fails_at(3, torch.OutOfMemoryError("CUDA out of memory")))
        with pytest.raises(BatchTooLarge, match="--grad-cache 2") as caught:
            _run(execution=execution)
    assert "continues from step 3" in str(caught.value)
    assert _kept_steps(tmp_path) == [3]
    resumed = _run(config=replace(CONFIG, grad_cache=2), execution=execution)
    for name in ("contrastive_loss", "next_token_loss", "summary_loss"):
        assert resumed.metrics[name] == pytest.approx(_whole_run().metrics[name], abs=1e-4), name


def test_what_torch_says_on_a_cpu_without_memory_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**46)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_loss_that_is_not_finite_keeps_the_last_good_state_and_a_lower_rate_continues_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = Execution(run_dir=tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Objective, "_whole", _fails_at(5, None))
        with pytest.raises(TrainingDiverged, match="not finite at step 5") as caught:
            _run(execution=execution)
    assert "The state of step 4 is kept: a lower --learning-rate continues from there" in str(caught.value)
    assert _kept_steps(tmp_path) == [4]
    whole, lower = _whole_run(), _run(config=replace(CONFIG, learning_rate=1e-4), execution=execution)
    assert lower.metrics["contrastive_loss"][:5] == whole.metrics["contrastive_loss"][:5]
    assert not _same_weights(whole, lower)
    lower.state.discard()
    assert not (tmp_path / "run").exists()


def test_other_runs_leave_an_unfinished_one_alone(tmp_path: Path) -> None:
    execution = Execution(run_dir=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        _run(execution=execution, progress=_Interrupting(after=4))
    _run(config=replace(CONFIG, seed=1), execution=execution).state.discard()
    assert _kept_steps(tmp_path) == [4]


def test_a_damaged_state_is_named_with_what_to_delete(tmp_path: Path) -> None:
    execution = Execution(run_dir=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        _run(execution=execution, progress=_Interrupting(after=4))
    weights = next((tmp_path / "run").glob("*/step-0000004/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointInvalid, match=r"model\.safetensors is damaged") as caught:
        _run(execution=execution)
    assert f"Delete {weights.parent.parent} to begin that run again" in str(caught.value)


def test_figures_of_every_step_outlive_an_interruption(tmp_path: Path) -> None:
    execution = Execution(run_dir=tmp_path / "run", tensorboard=tmp_path / "board")
    with pytest.raises(KeyboardInterrupt):
        _run(execution=execution, progress=_Interrupting(after=4))
    result = _run(execution=execution)
    assert len(result.steps) == 6
    assert all(step.memory_mib > 0 and step.gradient_norm > 0 and step.seconds > 0 for step in result.steps)
    assert result.steps[0].learning_rate == CONFIG.learning_rate
    save_curves(result.steps, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    seen = _scalars(tmp_path / "board")
    assert seen["loss/contrastive"] == pytest.approx([step.contrastive for step in result.steps])
    assert seen["run/learning_rate"] == pytest.approx([step.learning_rate for step in result.steps])
    assert seen["run/memory_mib"] == pytest.approx([step.memory_mib for step in result.steps])


def test_without_tensorboard_the_log_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(NotReady, match=r"pip install \"qanchor\[tensorboard\]\""):
        _run(execution=Execution(tensorboard=tmp_path))


def test_the_papers_settings_are_the_papers() -> None:
    paper = settings_of("paper")
    assert paper.points * paper.useru.questions == 2_048
    assert (paper.steps, round(paper.steps * paper.warm_up)) == (50_000, 2_000)
    assert (paper.learning_rate, paper.weight_decay, paper.clip) == (2e-4, 1e-5, 1.0)
    assert (paper.temperature, paper.margin, paper.margin_from) == (0.07, 0.1, paper.warm_up)
    assert paper.next_token_questions == paper.useru.questions
    assert (paper.contrastive_weight, paper.next_token_weight) == (1.0, 1.0)
    assert (paper.summary_weight, paper.event_dropout) == (0.0, 0.0)
    assert settings_of("tiny", steps=3) == PretrainConfig(steps=3)


def test_a_run_with_other_arguments_begins_again(tmp_path: Path) -> None:
    execution = Execution(run_dir=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        _run(execution=execution, progress=_Interrupting(after=4))
    other = replace(CONFIG, learning_rate=1e-3)
    assert _same_weights(_run(config=other), _run(config=other, execution=execution))


def test_excluded_users_are_as_if_they_had_never_been_there() -> None:
    events = tiny_events()
    without = events[events["user_id"] != "u003"]
    excluded = _run(visible=Visible(UNTIL, frozenset({"u003"})))
    assert _same_weights(excluded, _run(without))


def test_the_losses_fall() -> None:
    metrics = _run(config=replace(CONFIG, steps=30, learning_rate=1e-2)).metrics
    for name, gain in (("contrastive_loss", 0.1), ("next_token_loss", 0.5), ("summary_loss", 0.1)):
        assert np.mean(metrics[name][-5:]) < np.mean(metrics[name][:5]) - gain, name
    assert metrics["after"]["chance_rank"] >= 1
    assert metrics["pairs"] == 2 * metrics["points"]


def test_a_loss_that_is_not_finite_stops_with_a_remedy() -> None:
    with pytest.raises(TrainingDiverged, match="learning rate"):
        _run(config=replace(CONFIG, learning_rate=1e30))


def test_a_budget_in_minutes_chooses_the_steps_and_leaves_the_weights_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = _run(config=replace(CONFIG, minutes=1e-4))
    assert result.metrics["steps"] == 20
    assert _same_weights(result, _run(config=replace(CONFIG, steps=20)))


def test_memory_that_ends_before_the_first_step_is_explained_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 3 bytes")

    monkeypatch.setattr(module, "forward_points", forward)
    with pytest.raises(BatchTooLarge, match="--grad-cache"):
        _run()


class _SlowMachine:
    """A clock by which every batch takes some seconds, longer after the first ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, early: float, late: float) -> None:
        self.now, self.computed = 0.0, 0
        honest = Objective.backward

        def backward(objective: Objective, *arguments: Any, **named: Any) -> Losses:
            self.computed += 1
            self.now += early if self.computed <= 15 else late
            return honest(objective, *arguments, **named)

        monkeypatch.setattr(Objective, "backward", backward)
        self.execution = Execution(clock=lambda: self.now)


def test_a_machine_that_slows_down_after_the_trial_makes_fewer_steps_in_the_same_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = _SlowMachine(monkeypatch, early=1.0, late=3.0)
    result = _run(config=replace(CONFIG, minutes=2.0), execution=machine.execution)
    assert 115 <= machine.now <= 125
    assert 38 <= result.metrics["steps"] <= 46  # 114 by the trial
    rates = [step.learning_rate for step in result.steps]
    assert rates[-1] < 0.1 * max(rates)


def test_a_run_by_the_clock_resumes_with_the_planned_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, minutes=1.0, save_every=1)
    with monkeypatch.context() as patched:
        whole = _run(config=config, execution=_SlowMachine(patched, early=1.0, late=2.0).execution)
    machine = _SlowMachine(monkeypatch, early=1.0, late=2.0)
    execution = replace(machine.execution, run_dir=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        _run(config=config, execution=execution, progress=_Interrupting(after=20))
    resumed = _run(config=config, execution=execution)
    assert 20 < resumed.metrics["steps"] < 54  # 54 by the trial
    _assert_the_same_run(whole, resumed)


def test_no_users_with_a_past_is_a_clear_error() -> None:
    everybody = frozenset(tiny_events()["user_id"])
    with pytest.raises(NotReady, match="Load more events"):
        _run(visible=Visible(UNTIL, everybody))


def test_until_comes_from_the_labels_unless_an_earlier_one_is_given() -> None:
    earlier = UNTIL.replace(year=2025)
    assert choose_until(None, UNTIL) == UNTIL
    assert choose_until(earlier, UNTIL) == earlier
    assert choose_until(earlier, None) == earlier
    with pytest.raises(InputError, match="--until"):
        choose_until(None, None)
    with pytest.raises(InputError, match="read what it is asked to predict"):
        choose_until(UNTIL, earlier)


def test_switches_of_the_configuration_reach_the_model() -> None:
    config = replace(CONFIG, steps=1, user_token=False, modality_tokens=False, widths=(6, 3, 6))
    result = _run(config=config)
    model = result.model
    assert result.metrics["widths"] == [3, 6, 12]
    assert {"retrieval_at_1_width_3", "retrieval_at_1_width_6"} < result.metrics["after"].keys()
    assert not model.config.use_user_token
    assert not model.config.use_modality_tokens
    assert model.config.nested_widths == (3, 6)
    with pytest.raises(InputError, match="nested width 13 is not one of a vector of 12 numbers"):
        _run(config=replace(CONFIG, widths=(13,)))
