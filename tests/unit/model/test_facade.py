"""The three lines of the README."""

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch

import qanchor
from qanchor.errors import CheckpointInvalid, EventsInvalid, InputError, WorkspaceInvalid
from qanchor.model.checkpoint import save_model
from qanchor.model.facade import UserModel, load
from qanchor.model.runtime import choose_runtime
from qanchor.model.soft_prompt import SoftPrompt, save_prompt
from tests.unit.model.worlds import event_table, make_world

QUERY = "Will this user buy a ticket?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "m1"
    world = make_world(1)
    save_model(path, world.model, world.tokenizer, world.normaliser, {})
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> UserModel:
    return load(folder, device="cpu")


def test_a_path_a_table_and_a_frame_give_the_same_vectors(model: UserModel, tmp_path: Path) -> None:
    table = event_table(1)
    pyarrow.parquet.write_table(table, tmp_path / "events.parquet")
    pyarrow.csv.write_csv(table, tmp_path / "events.csv")
    users, vectors = model.embed(table, QUERY)
    assert users.tolist() == sorted(set(table["user_id"].to_pylist()))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for events in (
        tmp_path / "events.parquet",
        str(tmp_path / "events.parquet"),
        tmp_path / "events.csv",
        table.to_pandas(),
    ):
        other_users, other = model.embed(events, QUERY)
        assert other_users.tolist() == users.tolist()
        np.testing.assert_allclose(other, vectors, atol=1e-5)


def test_a_moment_is_a_date_a_text_or_just_after_the_last_event(model: UserModel) -> None:
    table = event_table(1)
    by_text = model.embed(table, QUERY, as_of="2024-01-15")[1]
    by_date = model.embed(table, QUERY, as_of=datetime(2024, 1, 15, tzinfo=UTC))[1]
    np.testing.assert_array_equal(by_text, by_date)
    assert np.abs(model.embed(table, QUERY)[1] - by_text).max() > 1e-4


def test_the_keyword_question_of_the_first_release_still_works_and_warns(model: UserModel) -> None:
    table = event_table(1)
    with pytest.warns(DeprecationWarning, match="query"):
        users, vectors = model.embed(table, question=QUERY, as_of="2024-01-15")  # type: ignore[call-arg]
    expected = model.embed(table, query=QUERY, as_of="2024-01-15")
    assert users.tolist() == expected[0].tolist()
    np.testing.assert_array_equal(vectors, expected[1])


def test_ids_with_leading_zeros_survive_a_csv(model: UserModel, tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(
        "user_id,event_time,modality,page\n007,2024-01-01T10:00:00Z,visit,home\n"
    )
    assert model.embed(tmp_path / "events.csv", QUERY)[0].tolist() == ["007"]


def test_a_prompt_turns_the_vectors(model: UserModel, tmp_path: Path) -> None:
    save_prompt(tmp_path / "p", SoftPrompt(torch.randn(6, 16), torch.zeros(2, 8)), {})
    table = event_table(1)
    plain, turned = (model.embed(table, QUERY, prompt=p)[1] for p in (None, tmp_path / "p"))
    assert np.abs(plain - turned).max() > 1e-4


def test_bad_input_is_one_line(model: UserModel, tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_text("no parquet")
    (tmp_path / "torn.csv").write_text("user_id,event_time,modality\na,2024-01-01\n")
    for events, message in (
        (tmp_path / "none.parquet", "there is no"),
        (tmp_path / "bad.parquet", "cannot be read"),
        (tmp_path / "torn.csv", "1 lines that are no row: the line has another number of columns"),
        (event_table(1, events=0), "no events"),
        (7, "type int cannot be read"),
    ):
        with pytest.raises(EventsInvalid, match=message) as caught:
            model.embed(events, QUERY)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="as_of 'soon' is no date"):
        model.embed(event_table(1), QUERY, as_of="soon")


def test_the_package_loads_models(folder: Path, tmp_path: Path) -> None:
    assert qanchor.__all__ == sorted(qanchor.__all__)
    assert isinstance(qanchor.load(folder, device="cpu"), UserModel)
    with pytest.raises(CheckpointInvalid, match="there is no model"):
        qanchor.load(tmp_path / "none")


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, qanchor, qanchor.events.history; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(WorkspaceInvalid, match="'abacus' is unknown"):
        choose_runtime("abacus")


def test_the_cpu_computes_in_float32_unless_told() -> None:
    assert choose_runtime("cpu", "auto").dtype is torch.float32
    assert choose_runtime("cpu", "bfloat16").dtype is torch.bfloat16


def test_half_precision_stays_close(folder: Path, model: UserModel) -> None:
    table = event_table(1)
    half = load(folder, device="cpu", precision="bfloat16").embed(table, QUERY)[1]
    assert half.dtype == np.float32
    assert (half * model.embed(table, QUERY)[1]).sum(axis=1).min() > 0.99


def test_a_nested_width_gives_the_first_numbers_and_others_are_refused(model: UserModel) -> None:
    table, dim = event_table(1), model.loaded.config.embedding_width
    whole = model.embed(table, QUERY)[1]
    with pytest.raises(InputError, match=f"no width 4.*Its widths are {dim}"):
        model.embed(table, QUERY, width=4)
    config = model.loaded.config.model_copy(update={"nested_widths": (4,)})
    nested = UserModel(replace(model.loaded, config=config))
    narrow = nested.embed(table, QUERY, width=4)[1]
    np.testing.assert_allclose(np.linalg.norm(narrow, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(
        narrow, whole[:, :4] / np.linalg.norm(whole[:, :4], axis=1, keepdims=True), atol=1e-5
    )
