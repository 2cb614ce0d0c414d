"""Checkpoints: what comes back is what was saved, or one line that says why not."""

import json
from pathlib import Path

import pytest
import torch

from qanchor.errors import CheckpointInvalid, DiskFull
from qanchor.model.checkpoint import load_model, save_model
from qanchor.model.qanchor import Suffix
from qanchor.model.soft_prompt import SoftPrompt, load_prompt, save_prompt
from qanchor.model.space import fingerprint
from tests.unit.model.worlds import QUERIES, World, make_world, random_arrays, slices_at

_FINGERPRINT = "de20854597c88c3b7e58839be389146f79eeb9e143f2d122be3e8e7f67f9b786"

WORLD = make_world(1)


def save(path: Path, world: World = WORLD) -> str:
    return save_model(path, world.model, world.tokenizer, world.normaliser, {"seed": 1})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "m1")
    return tmp_path / "m1"


@torch.no_grad()
def test_a_loaded_model_gives_the_same_vectors(folder: Path) -> None:
    loaded = load_model(folder, "cpu")
    arrays = random_arrays(0)
    again = World(loaded.config, loaded.tokenizer, loaded.normaliser, loaded.model)
    vectors = []
    for world in (WORLD, again):
        batch = world.batch(arrays, slices_at(arrays, [0, 1], [900, 500]))
        ids = world.tokenizer.encode_queries([QUERIES[2]])[0]
        vectors.append(world.model.read_out(world.model.encode_prefix(batch), Suffix(ids)))
    assert torch.equal(vectors[0], vectors[1])


def test_a_loaded_model_is_frozen_and_knows_its_origin(folder: Path) -> None:
    loaded = load_model(folder, "cpu")
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.metadata["seed"] == 1
    assert set(loaded.metadata["libraries"]) >= {"python", "torch", "transformers", "tokenizers"}
    assert loaded.config == WORLD.config


def test_the_same_weights_have_the_same_hash_and_others_another(tmp_path: Path) -> None:
    first, again = save(tmp_path / "a"), save(tmp_path / "b")
    assert first == again == load_model(tmp_path / "a", "cpu").content_hash
    assert save(tmp_path / "c", make_world(2)) != first


def test_nothing_but_the_folder_is_left_behind(tmp_path: Path, folder: Path) -> None:
    assert [path.name for path in tmp_path.iterdir()] == ["m1"]
    assert not list(folder.glob("*.pkl")) + list(folder.glob("*.bin")) + list(folder.glob("*.pt"))


def test_a_folder_is_never_overwritten(folder: Path) -> None:
    with pytest.raises(CheckpointInvalid, match="exists already"):
        save(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json", "normaliser.json", "tokenizer.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointInvalid, match=f"{name} is missing"):
        load_model(folder, "cpu")


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json", "tokenizer.json"])
def test_one_changed_byte_is_noticed(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(bytes(content))
    with pytest.raises(CheckpointInvalid, match=f"{name} is damaged"):
        load_model(folder, "cpu")


def test_another_format_version_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["format_version"] = 99
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointInvalid, match="format version 99, and this qanchor reads 1"):
        load_model(folder, "cpu")


@pytest.mark.parametrize("content", ["", "[]", '{"kind": "model"}'])
def test_a_broken_manifest_is_refused_in_one_line(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    with pytest.raises(CheckpointInvalid, match="damaged") as caught:
        load_model(folder, "cpu")
    assert "\n" not in str(caught.value)


def test_a_path_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid, match="there is no model at"):
        load_model(tmp_path / "nothing", "cpu")


def test_a_prompt_is_no_model(tmp_path: Path) -> None:
    save_prompt(tmp_path / "p", SoftPrompt(torch.zeros(6, 16), torch.zeros(2, 8)), {})
    with pytest.raises(CheckpointInvalid, match="holds a soft prompt, not a model"):
        load_model(tmp_path / "p", "cpu")


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qanchor.files.sync_folder", full)
    with pytest.raises(DiskFull, match="no space left"):
        save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_comes_back(tmp_path: Path) -> None:
    prompt = SoftPrompt(torch.randn(6, 16), torch.randn(2, 8))
    content_hash = save_prompt(tmp_path / "p", prompt, {"scenario": "fraud"})
    stored = load_prompt(tmp_path / "p")
    assert torch.equal(stored.prompt.vectors, prompt.vectors)
    assert torch.equal(stored.prompt.prototypes, prompt.prototypes)
    assert (stored.metadata, stored.content_hash) == ({"scenario": "fraud"}, content_hash)


def test_whatever_moves_vectors_moves_the_fingerprint() -> None:
    spaces = [
        ("m", "p", "query", 128),
        ("n", "p", "query", 128),
        ("m", None, "query", 128),
        ("m", "p", "other", 128),
        ("m", "p", "query", 64),
    ]
    assert len({fingerprint(*space) for space in spaces}) == len(spaces)
    assert fingerprint(*spaces[0]) == fingerprint(*spaces[0])


def test_the_number_format_is_part_of_the_space_and_the_usual_one_keeps_earlier_names() -> None:
    space = ("m", "p", "q", 128)
    assert len({fingerprint(*space, name) for name in ("float32", "bfloat16", "int8")}) == 3
    # As written by versions that knew of no number format.
    assert fingerprint(*space, "float32") == fingerprint(*space) == _FINGERPRINT
