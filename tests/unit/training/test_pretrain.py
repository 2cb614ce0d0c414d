"""Pre-training: repeatable, resumable, blind to the future, and loud when it fails."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from qanchor.errors import InputError, NotReady, TrainingDiverged
from qanchor.events.history import arrays_from_table
from qanchor.progress import Silent
from qanchor.training import pretrain as module
from qanchor.training.pretrain import PretrainConfig, PretrainResult, Visible, pretrain
from qanchor.training.record import choose_until
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
    limits: Visible | None = None,
    progress: Any = None,
) -> PretrainResult:
    arrays = arrays_from_table(tiny_events() if events is None else events, WORKSPACE)
    return pretrain(arrays, WORKSPACE, config, limits or Visible(UNTIL), progress or Silent())


def _same_weights(left: PretrainResult, right: PretrainResult) -> bool:
    theirs = right.model.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in left.model.state_dict().items())


class _Interrupting(Silent):
    """Somebody who presses Ctrl-C after some steps."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.left -= bool(note)
        if self.left < 0:
            raise KeyboardInterrupt


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first = _run()
    assert _same_weights(first, _run())
    assert not _same_weights(first, _run(config=replace(CONFIG, seed=1)))


def test_events_at_or_after_until_and_new_users_change_nothing() -> None:
    assert _same_weights(_run(), _run(planted_leak(tiny_events(), UNTIL)))


def test_an_interrupted_run_goes_on_to_the_same_losses_and_weights(tmp_path: Path) -> None:
    limits = Visible(UNTIL, run_dir=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        _run(limits=limits, progress=_Interrupting(after=4))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["step-0000004"]
    whole, resumed = _run(), _run(limits=limits)
    assert resumed.metrics["contrastive_loss"] == whole.metrics["contrastive_loss"]
    assert resumed.metrics["next_token_loss"] == whole.metrics["next_token_loss"]
    assert _same_weights(whole, resumed)


def test_a_run_with_other_arguments_begins_anew(tmp_path: Path) -> None:
    limits = Visible(UNTIL, run_dir=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        _run(limits=limits, progress=_Interrupting(after=4))
    other = replace(CONFIG, learning_rate=1e-3)
    assert _same_weights(_run(config=other), _run(config=other, limits=limits))


def test_excluded_users_are_as_if_they_had_never_been_there() -> None:
    events = tiny_events()
    without = events[events["user_id"] != "u003"]
    excluded = _run(limits=Visible(UNTIL, frozenset({"u003"})))
    assert _same_weights(excluded, _run(without))


def test_the_losses_fall() -> None:
    metrics = _run(config=replace(CONFIG, steps=30, learning_rate=1e-2)).metrics
    for name, gain in (("contrastive_loss", 0.1), ("next_token_loss", 0.5), ("summary_loss", 0.1)):
        assert np.mean(metrics[name][-5:]) < np.mean(metrics[name][:5]) - gain, name
    assert metrics["after"]["chance_rank"] >= 1
    assert metrics["pairs"] == 2 * metrics["points"]


def test_a_loss_that_is_no_number_stops_with_a_remedy() -> None:
    with pytest.raises(TrainingDiverged, match="learning rate"):
        _run(config=replace(CONFIG, learning_rate=1e30))


def test_a_budget_in_minutes_chooses_the_steps_and_leaves_the_weights_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = _run(config=replace(CONFIG, minutes=1e-4))
    assert result.metrics["steps"] == 20
    assert _same_weights(result, _run(config=replace(CONFIG, steps=20)))


def test_no_users_with_a_past_is_a_clear_error() -> None:
    everybody = frozenset(tiny_events()["user_id"])
    with pytest.raises(NotReady, match="Load more events"):
        _run(limits=Visible(UNTIL, everybody))


def test_until_comes_from_the_labels_unless_an_earlier_one_is_given() -> None:
    earlier = UNTIL.replace(year=2025)
    assert choose_until(None, UNTIL) == UNTIL
    assert choose_until(earlier, UNTIL) == earlier
    assert choose_until(earlier, None) == earlier
    with pytest.raises(InputError, match="--until"):
        choose_until(None, None)
    with pytest.raises(InputError, match="read what it is asked to predict"):
        choose_until(UNTIL, earlier)
