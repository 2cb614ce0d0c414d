"""Stored backbones: the paper preset's own path, on tiny checkpoints written to disk."""

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from qanchor.errors import NotReady, QAnchorError, WorkspaceInvalid
from qanchor.model.build import build_model, make_tokenizer
from qanchor.model.checkpoint import load_model, save_model
from qanchor.model.config import LoraSpec, ModelConfig, preset_config
from qanchor.model.embedder import Anchor, UserEmbedder
from qanchor.model.qanchor import Suffix
from tests.unit.model.worlds import (
    QUESTIONS,
    START,
    WORDS,
    WORKSPACE,
    World,
    make_world,
    random_arrays,
    slices_at,
)

pytestmark = pytest.mark.integration
WIDTH, TEXT_WIDTH = 32, 24
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
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    root = tmp_path_factory.mktemp("stored")
    torch.manual_seed(0)
    language = Tokenizer(models.BPE())
    language.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    language.train_from_iterator(
        [*QUESTIONS, *WORDS],
        trainers.BpeTrainer(
            vocab_size=330,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    PreTrainedTokenizerFast(
        tokenizer_object=language, pad_token="<|endoftext|>", eos_token="<|im_end|>"
    ).save_pretrained(root / "qwen2")
    # No row is left for another token, so <|user_emb|> cannot borrow one.
    qwen2 = Qwen2Config(
        vocab_size=language.get_vocab_size(),
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    Qwen2ForCausalLM(qwen2).save_pretrained(root / "qwen2")

    words = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.train_from_iterator(
        ["paid", *WORDS],
        trainers.WordPieceTrainer(
            vocab_size=120, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
        ),
    )
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(root / "bert")
    bert = BertConfig(
        vocab_size=words.get_vocab_size(),
        hidden_size=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=40,
        max_position_embeddings=64,
    )
    BertModel(bert).save_pretrained(root / "bert")
    return root / "qwen2", root / "bert"


def paper(stored: tuple[Path, Path], **changes: Any) -> ModelConfig:
    """The paper preset with the two folders in place of the published names."""
    base = preset_config("paper", WORKSPACE)
    backbone = base.backbone.model_copy(update={"source": str(stored[0]), "width": WIDTH})
    text = base.text_encoder.model_copy(update={"source": str(stored[1]), "width": TEXT_WIDTH})
    return base.model_copy(update={"backbone": backbone, "text_encoder": text, **changes})


@pytest.fixture(scope="module")
def world(stored: tuple[Path, Path]) -> World:
    config = paper(stored)
    tokenizer = make_tokenizer(config, [])
    return World(config, tokenizer, make_world().normaliser, build_model(config, tokenizer).eval())


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
        assert parameter.requires_grad == ("lora_" in name or not borrowed), name


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
        for question in QUESTIONS:
            suffix = Suffix(world.tokenizer.encode_questions([question])[0], prompt)
            cached = world.model.read_out(prefix, suffix)
            assert (cached - world.model.read_out_uncached(batch, suffix)).abs().max() <= 1e-5


def test_a_training_pass_reaches_lora_and_the_anchor_token(world: World) -> None:
    arrays = random_arrays(0)
    batch = world.batch(arrays, slices_at(arrays, [0, 1], [900, 500]))
    questions = world.tokenizer.encode_questions(list(QUESTIONS[:2]))
    answers = world.tokenizer.encode_answers(["tea", "the user leaves"])
    output = world.model.forward_pairs(batch, questions, answers)
    (output.ntp_loss - (output.anchor * output.answer).sum()).backward()  # type: ignore[no-untyped-call]
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
    vectors = UserEmbedder(loaded).embed(arrays, np.array([0, 1, -1]), cutoffs, [Anchor(QUESTIONS[0])])[0]
    batch = world.batch(arrays, slices_at(arrays, [0, 1, -1], [900] * 3))
    suffix = Suffix(world.tokenizer.encode_questions([QUESTIONS[0]])[0])
    with torch.no_grad():
        expected = world.model.read_out(world.model.encode_prefix(batch), suffix).numpy()
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_another_architecture_takes_the_plain_way(stored: tuple[Path, Path], tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(paper(stored), [])
    llama = LlamaConfig(
        vocab_size=tokenizer.vocabulary,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(llama).save_pretrained(tmp_path / "llama")
    config = paper((tmp_path / "llama", stored[1]))
    world = World(config, tokenizer, make_world().normaliser, build_model(config, tokenizer).eval())
    arrays = random_arrays(0)
    batch = world.batch(arrays, slices_at(arrays, [0, 1], [900, 500]))
    suffix = Suffix(tokenizer.encode_questions([QUESTIONS[1]])[0])
    with torch.no_grad():
        cached = world.model.read_out(world.model.encode_prefix(batch), suffix)
        assert (cached - world.model.read_out_uncached(batch, suffix)).abs().max() <= 1e-5


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
