"""Prompt tuning: frozen model, no look at test labels, one prefix for all scenarios."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from qanchor.errors import LabelsInvalid
from qanchor.events.history import EventArrays, arrays_from_table, slice_histories
from qanchor.events.labels import Labels
from qanchor.model.batch import collate
from qanchor.model.build import build_model, make_tokenizer
from qanchor.model.checkpoint import LoadedModel
from qanchor.model.features import Normaliser
from qanchor.model.qanchor import Suffix
from qanchor.model.runtime import choose_runtime
from qanchor.model.soft_prompt import SoftPrompt, save_prompt
from qanchor.progress import Silent
from qanchor.times import to_microseconds
from qanchor.training import tune
from qanchor.training import tune_scenarios as together
from qanchor.training.prefixes import PrefixBank
from qanchor.training.tune import TuneConfig, TunedPrompt, TuneTask
from qanchor.training.tune_scenarios import Tuning, tune_scenarios
from tests.unit.training.worlds import UNTIL, tiny_config, tiny_events, tiny_workspace

WORKSPACE = tiny_workspace()
CONFIG = TuneConfig(tokens=3, steps=6, batch=16, check_every=3)


@pytest.fixture(scope="module")
def arrays() -> EventArrays:
    return arrays_from_table(tiny_events(users=40), WORKSPACE)


@pytest.fixture(scope="module")
def loaded(arrays: EventArrays) -> LoadedModel:
    config = tiny_config(WORKSPACE)
    queries = [spec.query for spec in WORKSPACE.scenarios.values()]
    tokenizer = make_tokenizer(config, [*arrays.texts, *queries])
    model = build_model(config, tokenizer).eval().requires_grad_(False)
    normaliser = Normaliser.fit(arrays, WORKSPACE.modalities)
    return LoadedModel(model, tokenizer, normaliser, config, {}, "hash", choose_runtime("cpu"))


def _labels(scenario: str = "sails", poison: bool = False, unknown: bool = False) -> Labels:
    """Even users sail; a third of the users each in train, valid and test."""
    users = np.arange(40)
    split = np.array(["train", "valid", "test"])[(users // 2) % 3]
    label = (users % 2 == 0).astype(np.int8)
    if poison:
        label = np.where(split == "test", 1 - label, label).astype(np.int8)
    names = [f"u{i:03d}" if not (unknown and i < 4) else f"nobody{i}" for i in users]
    moments = pa.array([UNTIL - timedelta(days=int(i % 3)) for i in users], pa.timestamp("us", tz="UTC"))
    table = {
        "user_id": names,
        "as_of": moments,
        "label": pa.array(label),
        "fold": pa.nulls(40, pa.int16()),
        "split": split,
    }
    return Labels(scenario, pa.table(table))


def _tune(
    loaded: LoadedModel, arrays: EventArrays, *labels: Labels, config: TuneConfig = CONFIG
) -> dict[str, TunedPrompt]:
    return tune_scenarios(Tuning(loaded, WORKSPACE, config), arrays, labels or (_labels(),), Silent())


def _bytes(tuned: TunedPrompt, path: Path) -> bytes:
    metrics = {name: value for name, value in tuned.metrics.items() if name != "seconds"}
    save_prompt(path, SoftPrompt(tuned.vectors, tuned.prototypes), metrics)
    return (path / "prompt.safetensors").read_bytes() + repr(metrics).encode()


def test_poisoned_test_labels_change_no_byte(
    loaded: LoadedModel, arrays: EventArrays, tmp_path: Path
) -> None:
    clean = _tune(loaded, arrays)["sails"]
    poisoned = _tune(loaded, arrays, _labels(poison=True))["sails"]
    assert _bytes(clean, tmp_path / "clean") == _bytes(poisoned, tmp_path / "poisoned")


def test_train_labels_do_matter(loaded: LoadedModel, arrays: EventArrays) -> None:
    flipped = _labels()
    table = flipped.table.set_column(
        2, "label", pa.array((1 - np.asarray(flipped.table["label"])).astype(np.int8))
    )
    other = _tune(loaded, arrays, Labels("sails", table))["sails"]
    assert not torch.equal(other.prototypes, _tune(loaded, arrays)["sails"].prototypes)


def test_tuning_leaves_the_model_as_it_was(loaded: LoadedModel, arrays: EventArrays) -> None:
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    _tune(loaded, arrays)
    after = loaded.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_prompt_and_prototypes_have_their_shapes(loaded: LoadedModel, arrays: EventArrays) -> None:
    tuned = _tune(loaded, arrays)["sails"]
    assert tuned.vectors.shape == (3, 16)
    assert tuned.prototypes.shape == (2, 12)
    assert torch.allclose(tuned.prototypes.norm(dim=1), torch.ones(2))
    assert {"valid_auc_base_probe", "valid_auc_tuned_probe", "valid_auc_prototypes"} <= set(tuned.metrics)


def test_the_record_holds_the_course_of_the_tuning(loaded: LoadedModel, arrays: EventArrays) -> None:
    metrics = _tune(loaded, arrays)["sails"].metrics
    course = dict(metrics["valid_auc_by_step"])
    assert metrics["tokens"] == CONFIG.tokens
    assert min(course) == 0
    assert course[metrics["best_step"]] == metrics["valid_auc_prototypes"] == max(course.values())
    assert len(metrics["loss"]) == metrics["steps"] >= max(course)


def test_a_scenario_tuned_beside_another_is_tuned_as_alone(
    loaded: LoadedModel, arrays: EventArrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = _tune(loaded, arrays)["sails"]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    both = _tune(loaded, arrays, _labels("sings"), _labels("sails"))
    assert torch.allclose(both["sails"].vectors, alone.vectors, atol=1e-5)
    assert set(both) == {"sails", "sings"}


class _Counted:
    """A Progress that adds up."""

    def __init__(self) -> None:
        self.stages: list[list[Any]] = []

    def start(self, label: str, total: int | None = None) -> None:
        self.stages.append([label, total, 0])

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.stages[-1][2] += steps


def test_every_step_of_scenarios_tuned_at_once_is_counted_though_they_stop_early(
    loaded: LoadedModel, arrays: EventArrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    config = replace(CONFIG, steps=40, check_every=1, patience=1)
    counted = _Counted()
    tuned = tune_scenarios(
        Tuning(loaded, WORKSPACE, config), arrays, [_labels("sails"), _labels("sings")], counted
    )
    assert min(prompt.metrics["steps"] for prompt in tuned.values()) < 40
    assert counted.stages[-1] == ["tuning 2 scenarios", 80, 80]


@pytest.mark.parametrize("threads", ["1", "2"])
def test_an_error_in_one_scenario_ends_the_others(
    loaded: LoadedModel, arrays: EventArrays, monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    real = tune.tune_prompt

    def failing(task: TuneTask, *rest: Any) -> TunedPrompt:
        if task.scenario == "sails":
            raise RuntimeError("broken")
        return real(task, *rest)

    monkeypatch.setattr(together, "tune_prompt", failing)
    config = replace(CONFIG, steps=100_000, check_every=100_000)
    with pytest.raises(RuntimeError, match="broken"):
        tune_scenarios(
            Tuning(loaded, WORKSPACE, config), arrays, [_labels("sails"), _labels("sings")], Silent()
        )


def test_one_class_in_a_part_is_refused_by_name(loaded: LoadedModel, arrays: EventArrays) -> None:
    table = _labels().table
    ones = table.set_column(2, "label", pa.array(np.ones(40, np.int8)))
    with pytest.raises(LabelsInvalid, match="sails"):
        _tune(loaded, arrays, Labels("sails", ones))


def test_a_scenario_of_three_classes_gets_three_prototypes(loaded: LoadedModel, arrays: EventArrays) -> None:
    sails = WORKSPACE.scenarios["sails"].model_copy(update={"classes": ("never", "once", "often")})
    workspace = replace(WORKSPACE, scenarios={"sails": sails})
    table = _labels().table
    users = np.arange(40)
    three = table.set_column(2, "label", pa.array((users % 3).astype(np.int8)))
    three = three.set_column(4, "split", pa.array(np.array(["train", "valid", "test"])[(users // 3) % 3]))
    tuned = tune_scenarios(Tuning(loaded, workspace, CONFIG), arrays, [Labels("sails", three)], Silent())[
        "sails"
    ]
    assert tuned.prototypes.shape == (3, 12)
    assert tuned.metrics["classes"] == 3
    assert 0 <= tuned.metrics["valid_auc_prototypes"] <= 1


def test_a_missing_class_is_refused_before_any_history_is_encoded(
    loaded: LoadedModel, arrays: EventArrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PrefixBank, "fill", lambda *_: pytest.fail("encoded"))
    sails = WORKSPACE.scenarios["sails"].model_copy(update={"classes": ("never", "once", "often")})
    workspace = replace(WORKSPACE, scenarios={"sails": sails})
    with pytest.raises(LabelsInvalid, match="no row with label 2"):
        tune_scenarios(Tuning(loaded, workspace, CONFIG), arrays, [_labels()], Silent())


def test_labels_none_of_whose_users_has_events_are_refused(loaded: LoadedModel, arrays: EventArrays) -> None:
    table = _labels().table
    strangers = table.set_column(0, "user_id", pa.array([f"nobody{i}" for i in range(40)]))
    with pytest.raises(LabelsInvalid, match="no user of the train part"):
        _tune(loaded, arrays, Labels("sails", strangers))


def test_labels_of_users_without_events_are_fine(loaded: LoadedModel, arrays: EventArrays) -> None:
    tuned = _tune(loaded, arrays, _labels(unknown=True))["sails"]
    assert torch.isfinite(tuned.vectors).all()


def test_more_rows_than_may_be_kept_are_sampled(loaded: LoadedModel, arrays: EventArrays) -> None:
    tuned = _tune(loaded, arrays, config=replace(CONFIG, most_rows=8))["sails"]
    assert tuned.metrics["train_rows"] == 8


def test_a_bank_gives_every_request_its_own_prefix(loaded: LoadedModel, arrays: EventArrays) -> None:
    rows = np.array([5, -1, 0, 17, 5, 9])
    cutoffs = np.array([to_microseconds(UNTIL) - day * 86_400_000_000 for day in (0, 1, 40, 75, 30, 2)])
    bank = PrefixBank(loaded.model, loaded.tokenizer, loaded.normaliser, WORKSPACE)
    bank.fill(arrays, rows, cutoffs, Silent())
    question = loaded.tokenizer.encode_queries(["Will this user sail?"])[0]
    slices = slice_histories(arrays, rows, cutoffs, WORKSPACE)
    batch = collate(
        arrays, slices, loaded.tokenizer.tokenise_events(arrays.texts), loaded.normaliser, loaded.config
    )
    with torch.no_grad():
        expected = loaded.model.read_out_uncached(batch, Suffix(question))
        order = np.array([3, 1, 1, 5, 0])
        taken = loaded.model.read_out(bank.take(order), Suffix(question))
    assert torch.allclose(taken, expected[order], atol=1e-5)
    assert np.allclose(bank.vectors(question, None, order), expected[order].numpy(), atol=1e-5)


def test_a_bank_in_half_precision_gives_nearly_the_same_vectors_in_half_the_memory(
    loaded: LoadedModel, arrays: EventArrays
) -> None:
    rows, cutoffs = np.array([5, 0, 17, 9]), np.full(4, to_microseconds(UNTIL))
    question = loaded.tokenizer.encode_queries(["Will this user sail?"])[0]
    vectors, stored = [], []
    for kind in (None, torch.float16):
        bank = PrefixBank(loaded.model, loaded.tokenizer, loaded.normaliser, WORKSPACE, kind)
        bank.fill(arrays, rows, cutoffs, Silent())
        vectors.append(bank.vectors(question, None, np.arange(4)))
        stored.append(bank.stored_bytes)
    assert stored[1] * 2 == stored[0]
    assert np.sum(vectors[0] * vectors[1], axis=1).min() > 0.9999
