"""Stored backbones: the paper preset's own path, on tiny checkpoints written to disk."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qanchor.errors import CheckpointInvalid, NotReady, QAnchorError, WorkspaceInvalid
from qanchor.model.backbone import Backbone
from qanchor.model.build import build_model, make_tokenizer
from qanchor.model.checkpoint import load_model, save_model
from qanchor.model.config import LoraSpec, ModelConfig, preset_config
from qanchor.model.embedder import Query, UserEmbedder
from qanchor.model.inference import merge_adapters
from qanchor.model.pretrained import load_tokenizer, with_sources
from qanchor.model.qanchor import Suffix
from qanchor.training.batches import PairBatch
from qanchor.training.forward import forward_points
from tests.integration.stored_models import (
    FAMILIES,
    TEXT_FAMILIES,
    TEXT_WIDTH,
    WIDTH,
    store_decoder,
    store_text_encoder,
)
from tests.unit.model.worlds import (
    QUERIES,
    START,
    WORKSPACE,
    World,
    make_world,
    random_arrays,
    slices_at,
)

pytestmark = pytest.mark.integration
LORA_MODULES = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any connection is a failure."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a stored backbone must not touch the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a tiny Qwen2 and a tiny BERT, with their tokenizers."""
    root = tmp_path_factory.mktemp("stored")
    return store_decoder(root / "qwen2", "qwen2"), store_text_encoder(root / "bert")


def paper(stored: tuple[Path, Path], **changes: Any) -> ModelConfig:
    """The paper preset with the two folders in place of the published names."""
    base = preset_config("paper", WORKSPACE)
    backbone = base.backbone.model_copy(update={"source": str(stored[0]), "width": WIDTH})
    text = base.text_encoder.model_copy(update={"source": str(stored[1]), "width": TEXT_WIDTH})
    return base.model_copy(update={"backbone": backbone, "text_encoder": text, **changes})


@pytest.fixture(scope="module")
def world(stored: tuple[Path, Path]) -> World:
    return _world(paper(stored))


def _world(config: ModelConfig) -> World:
    tokenizer = make_tokenizer(config, [])
    return World(config, tokenizer, make_world().normaliser, build_model(config, tokenizer).eval())


def _vectors(world: World) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Vectors of three users, one without events, for one question."""
    arrays = random_arrays(0)
    batch = world.batch(arrays, slices_at(arrays, [0, 1, -1], [900, 500, 900]))
    suffix = Suffix(world.tokenizer.encode_queries([QUERIES[0]])[0])
    with torch.no_grad():
        result: np.ndarray[Any, np.dtype[np.float32]] = world.model.read_out(
            world.model.encode_prefix(batch), suffix
        ).numpy()
    return result


def _pairs(world: World) -> PairBatch:
    """Two points with two questions each."""
    arrays = random_arrays(0)
    events = world.batch(arrays, slices_at(arrays, [0, 1], [900, 500]))
    questions = world.tokenizer.encode_queries([*QUERIES[:2], *QUERIES[1:]]).view(2, 2, -1)
    answers = world.tokenizer.encode_answers(["tea", "the user leaves", "rent", "gold"]).view(2, 2, -1)
    return PairBatch(events, questions, answers, torch.tensor([0, 1]), torch.zeros(2, 2, 3))


def test_lora_stands_on_exactly_the_stated_modules(world: World) -> None:
    adapted = {
        name.split(".lora_")[0].rpartition(".")[2]
        for name, _ in world.model.backbone.named_parameters()
        if "lora_" in name
    }
    assert adapted == LORA_MODULES
    layers = [name for name, _ in world.model.backbone.named_parameters() if "lora_A" in name]
    assert len(layers) == 3 * len(LORA_MODULES)
    spec = world.config.backbone.lora
    assert spec is not None
    assert {p.shape[0] for n, p in world.model.named_parameters() if "backbone" in n and "lora_A" in n} == {
        64
    }


def test_only_lora_and_our_own_layers_learn(world: World) -> None:
    for name, parameter in world.model.named_parameters():
        borrowed = name.startswith(("backbone.lm.", "encoder.text_encoder.encoder."))
        learned = not borrowed and name not in ("encoder.tabular.mean", "encoder.tabular.spread")
        assert parameter.requires_grad == ("lora_" in name or learned), name


def test_text_encoder_lora_leaves_the_unread_pooler_alone(world: World) -> None:
    names = [name for name, _ in world.model.encoder.text_encoder.named_parameters() if "lora_" in name]
    assert names
    assert not [name for name in names if "pooler" in name]


@torch.no_grad()
def test_the_cached_prefix_equals_full_recomputation(world: World) -> None:
    arrays = random_arrays(0)
    batch = world.batch(arrays, slices_at(arrays, [0, 1, -1], [900, 500, 900]))
    prefix = world.model.encode_prefix(batch)
    for prompt in (None, torch.randn(6, WIDTH)):
        for question in QUERIES:
            suffix = Suffix(world.tokenizer.encode_queries([question])[0], prompt)
            cached = world.model.read_out(prefix, suffix)
            assert (cached - world.model.read_out_uncached(batch, suffix)).abs().max() <= 1e-5


def test_a_training_pass_reaches_lora_and_the_anchor_token(world: World) -> None:
    arrays = random_arrays(0)
    batch = world.batch(arrays, slices_at(arrays, [0, 1], [900, 500]))
    questions = world.tokenizer.encode_queries(list(QUERIES[:2]))[:, None]
    answers = world.tokenizer.encode_answers(["tea", "the user leaves"])[:, None]
    pairs = PairBatch(batch, questions, answers, torch.tensor([0, 1]), torch.zeros(2, 1, 3))
    output = forward_points(world.model, pairs)
    (output.next_token_loss - (output.anchor * output.answer).sum()).backward()  # type: ignore[no-untyped-call]
    without = [n for n, p in world.model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    world.model.zero_grad(set_to_none=True)


def test_a_checkpoint_holds_what_was_learned_and_names_the_rest(world: World, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    with torch.no_grad():
        for name, parameter in world.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.01)
    save_model(tmp_path / "m", world.model, world.tokenizer, world.normaliser, {})
    kept = load_file(str(tmp_path / "m" / "weights.safetensors"))
    assert all("lora_" in name or ".lm." not in name for name in kept)
    loaded = load_model(tmp_path / "m", "cpu", "float32")
    arrays, cutoffs = random_arrays(0), np.full(3, START + 900 * 3_600_000_000)
    vectors = UserEmbedder(loaded).embed(arrays, np.array([0, 1, -1]), cutoffs, [Query(QUERIES[0])])[0]
    batch = world.batch(arrays, slices_at(arrays, [0, 1, -1], [900] * 3))
    suffix = Suffix(world.tokenizer.encode_queries([QUERIES[0]])[0])
    with torch.no_grad():
        expected = world.model.read_out(world.model.encode_prefix(batch), suffix).numpy()
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_reads_the_same_cached_or_not_one_by_one_or_in_one_pass(
    stored: tuple[Path, Path], tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = _world(with_sources(paper(stored), str(store_decoder(tmp_path / family, family))))
    arrays = random_arrays(0)
    batch = world.batch(arrays, slices_at(arrays, [0, 1, -1], [900, 500, 900]))
    ids = [world.tokenizer.encode_queries([question])[0] for question in QUERIES]
    suffixes = [Suffix(one, torch.randn(6, WIDTH)) for one in ids]
    model = world.model
    with torch.no_grad():
        prefix = model.encode_prefix(batch)
        cached = torch.stack([model.read_out(prefix, suffix) for suffix in suffixes])
        block = model.read_out_block(prefix, model.suffix_block(suffixes))
        whole = torch.stack([model.read_out_uncached(batch, suffix) for suffix in suffixes])
        monkeypatch.setattr(Backbone, "_is_driven", False)
        plain = torch.stack([model.read_out(model.encode_prefix(batch), suffix) for suffix in suffixes])
    for found in (cached, block, plain):
        assert (found - whole).abs().max() <= 1e-5


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_checkpointed_layers_give_every_family_the_same_gradients(
    stored: tuple[Path, Path], tmp_path: Path, family: str
) -> None:
    world = _world(with_sources(paper(stored), str(store_decoder(tmp_path / family, family))))
    model, batch = world.model, _pairs(world)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.train()
    found = []
    for on in (False, True):
        model.checkpoint_layers(on)
        output = forward_points(model, batch)
        (output.next_token_loss - (output.anchor * output.answer).sum()).backward()  # type: ignore[no-untyped-call]
        weights = [p for p in model.parameters() if p.requires_grad]
        assert all(p.grad is not None for p in weights if p.numel() and p.requires_grad)
        found.append([p.grad.clone() for p in weights if p.grad is not None])
        model.zero_grad(set_to_none=True)
    for kept, again in zip(*found, strict=True):
        assert torch.allclose(kept, again, atol=1e-4, rtol=1e-4)


def test_a_family_that_cannot_be_checkpointed_says_what_to_do(
    stored: tuple[Path, Path], tmp_path: Path
) -> None:
    world = _world(with_sources(paper(stored), str(store_decoder(tmp_path / "m", "mistral"))))
    with pytest.raises(WorkspaceInvalid, match="--grad-cache"):
        world.model.checkpoint_layers(True)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_is_no_token_of_any_text_and_not_the_one_that_ends_it(tmp_path: Path, family: str) -> None:
    backend, pad, end = load_tokenizer(str(store_decoder(tmp_path / family, family)))
    assert pad != end
    assert pad not in backend.encode("<s> tea and coffee", add_special_tokens=False).ids[1:]


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_text_encoders_are_adapted_in_every_layer_and_pooled_as_asked(
    stored: tuple[Path, Path], tmp_path: Path, family: str
) -> None:
    source = str(store_text_encoder(tmp_path / family, family, 16))
    config = with_sources(preset_config("tiny", WORKSPACE), text_encoder=source, pooling="mean")
    assert (config.text_encoder.width, config.text_encoder.kind) == (16, "transformer")
    encoder: Any = build_model(config, make_tokenizer(config, ["tea"])).eval().encoder.text_encoder
    adapted = [m for m in encoder.encoder.modules() if "Linear" in type(m).__name__ and hasattr(m, "lora_A")]
    assert len(adapted) >= 2 * 3
    ids = torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]])
    with torch.no_grad():
        states = encoder.encoder(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
        found = encoder(ids, ids != 0)
    assert torch.allclose(found, torch.stack([states[0].mean(0), states[1, :3].mean(0)]), atol=1e-6)


def test_merged_weights_give_the_same_vectors_without_the_other_folders(
    stored: tuple[Path, Path], tmp_path: Path
) -> None:
    sources = [shutil.copytree(folder, tmp_path / folder.name) for folder in stored]
    world = _world(paper((sources[0], sources[1])))
    with torch.no_grad():
        for name, parameter in world.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    before = _vectors(world)
    save_model(
        tmp_path / "merged", merge_adapters(world.model), world.tokenizer, world.normaliser, {"seed": 0}
    )
    for folder in sources:
        shutil.rmtree(folder)
    loaded = load_model(tmp_path / "merged", "cpu", "float32")
    assert not [name for name, _ in loaded.model.named_parameters() if "lora_" in name]
    after = _vectors(World(loaded.config, loaded.tokenizer, loaded.normaliser, loaded.model))
    assert np.abs(before - after).max() <= 1e-5


def test_a_model_without_adapters_is_merged_by_leaving_it_alone() -> None:
    world = make_world(1)
    before = _vectors(world)
    assert merge_adapters(world.model) is world.model
    assert np.array_equal(before, _vectors(world))


def test_other_weights_in_the_named_folder_are_noticed(stored: tuple[Path, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(stored[0], tmp_path / "qwen2")
    world = _world(paper((folder, stored[1])))
    save_model(tmp_path / "m", world.model, world.tokenizer, world.normaliser, {})
    load_model(tmp_path / "m", "cpu", "float32")
    store_decoder(folder, "qwen2", initializer_range=0.05)
    with pytest.raises(CheckpointInvalid, match=f"{folder} does not hold the weights"):
        load_model(tmp_path / "m", "cpu", "float32")


def test_a_config_that_is_not_of_its_weights_is_refused_with_what_differs(
    stored: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(stored[1], tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 48}))
    with pytest.raises(NotReady, match=r"is inconsistent: .* has shape .*24.*says .*48"):
        _world(with_sources(paper(stored), text_encoder=str(folder)))


def test_an_encoder_of_another_width_under_a_stored_model_is_refused(
    stored: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(stored[1], tmp_path / "bert")
    world = _world(paper((stored[0], folder)))
    save_model(tmp_path / "m", world.model, world.tokenizer, world.normaliser, {})
    store_text_encoder(folder, width=48)
    with pytest.raises(WorkspaceInvalid, match="has width 48, and the config says 24"):
        load_model(tmp_path / "m", "cpu", "float32")


def test_a_text_encoder_is_no_decoder(stored: tuple[Path, Path]) -> None:
    with pytest.raises(NotReady, match=r"has no weights for cls\.") as caught:
        _world(with_sources(paper(stored), str(stored[1])))
    assert "\n" not in str(caught.value)


def test_a_decoder_that_is_built_otherwise_is_refused(stored: tuple[Path, Path], tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=330, n_embd=WIDTH, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(WorkspaceInvalid, match="decoders of type 'gpt2'"):
        build_model(with_sources(paper(stored), str(tmp_path / "gpt2")), make_tokenizer(paper(stored), []))


@pytest.mark.parametrize("part", ["backbone", "text_encoder"])
def test_what_is_not_on_disk_is_named_and_nothing_is_downloaded(stored: tuple[Path, Path], part: str) -> None:
    base = paper(stored)
    absent = getattr(base, part).model_copy(update={"source": "somebody/no-such-model"})
    config = base.model_copy(update={part: absent})
    for make in (
        lambda: make_tokenizer(config, []),
        lambda: build_model(config, make_tokenizer(base, [])),
    ):
        with pytest.raises(NotReady, match="somebody/no-such-model cannot be loaded") as caught:
            make()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["backbone", "text_encoder"])
def test_a_width_that_differs_is_refused(stored: tuple[Path, Path], part: str) -> None:
    base = paper(stored)
    config = base.model_copy(update={part: getattr(base, part).model_copy(update={"width": 48})})
    with pytest.raises(WorkspaceInvalid, match="and the config says 48"):
        build_model(config, make_tokenizer(base, []))


def test_a_module_that_does_not_exist_is_refused(stored: tuple[Path, Path]) -> None:
    base = paper(stored)
    lora = LoraSpec(modules=("q_proj", "c_attn"))
    config = base.model_copy(update={"backbone": base.backbone.model_copy(update={"lora": lora})})
    with pytest.raises(WorkspaceInvalid, match="no layer 'c_attn'"):
        build_model(config, make_tokenizer(base, []))


def test_damaged_weights_are_refused_in_one_line(stored: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    for file in stored[0].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "model.safetensors").write_bytes(b"no tensors")
    config = paper((folder, stored[1]))
    with pytest.raises(QAnchorError, match="cannot be loaded") as caught:
        build_model(config, make_tokenizer(config, []))
    assert "\n" not in str(caught.value)


def test_a_config_file_of_rubbish_is_refused(stored: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "rubbish"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "abacus"}))
    config = paper((folder, stored[1]))
    with pytest.raises(NotReady, match="cannot be loaded"):
        build_model(config, make_tokenizer(paper(stored), []))
