"""A transformers model from a folder as a writer: built on disk here, as a user has a real one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from qanchor.errors import InputError
from qanchor.training.useru.chat import LocalChat, Message
from qanchor.training.useru.llm_writer import Budget, LlmOptions, LlmWriter, ReplyCache
from tests.unit.training.useru.worlds import CONFIG, build, rows_of

REPLY = {
    "question": "What is to be told about it?",
    "answer": [{"text": "There were 987 events.", "facts": ["events"]}],
}
_END, _PAD = "<|end|>", "<|pad|>"


def _save_model(folder: Path, reply: str, longest: int = 4096, template: bool = True) -> None:
    """A checkpoint of a tiny Llama that always gives the same reply."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = [reply[at : at + 4] for at in range(0, len(reply), 4)]
    pieces = list(dict.fromkeys([_PAD, _END, "<|unk|>", *(f"{i}|{word}" for i, word in enumerate(words))]))
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<|unk|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\S+"), "isolated")
    # A piece is its number and four characters of the reply; the number is taken away again.
    tokenizer.decoder = decoders.Sequence([decoders.Replace(Regex(r"^\d+\|"), ""), decoders.Fuse()])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=_END, pad_token=_PAD, unk_token="<|unk|>"
    )
    if template:
        wrapped.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    torch.manual_seed(0)
    size = len(pieces)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=longest,
        tie_word_embeddings=False,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    _teach(model, [2, *range(3, size), 1])
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)


def _teach(model: Any, reply: list[int]) -> None:
    """Train each token of the reply to follow the one before it."""
    pairs = torch.tensor([reply[:-1], reply[1:]])
    with torch.no_grad():
        # What attention brings along from a long prompt must not change the reply.
        model.model.layers[0].self_attn.o_proj.weight.zero_().requires_grad_(False)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), 0.02)
    for _ in range(200):
        logits = model(pairs[0][:, None]).logits[:, 0]
        loss = torch.nn.functional.cross_entropy(logits, pairs[1])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if float(loss.detach()) < 0.01:
            return
    raise AssertionError("the model has not learned to say it")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model on disk."""
    folder = tmp_path_factory.mktemp("models") / "tiny-teller"
    _save_model(folder, json.dumps(REPLY))
    return folder


def test_a_model_on_disk_writes_and_reflection_mends(checkpoint: Path, tmp_path: Path) -> None:
    budget = Budget()
    chat = LocalChat(checkpoint)
    writer = LlmWriter(chat, ReplyCache(tmp_path / "replies"), budget, LlmOptions(200))
    few = replace(CONFIG, users=3, cutoffs=1, topics=2)
    manifest = build(tmp_path / "set", config=few, writer=writer, budget=budget)
    rows = rows_of(tmp_path / "set", "uqa")
    assert len(rows) == 3
    assert {row["draft"] for row in rows} == {"There were 987 events."}
    assert {row["verdict"] for row in rows} == {"repaired"}
    assert not any("987" in row["answer"] for row in rows)
    assert all(row["model"].startswith("tiny-teller#") for row in rows)
    assert manifest.spending["reply_tokens"] > 0
    calls = manifest.spending["calls"]
    again = LlmWriter(LocalChat(checkpoint), ReplyCache(tmp_path / "replies"), budget, LlmOptions(200))
    build(tmp_path / "again", config=few, writer=again, budget=budget)
    assert budget.calls == calls


def test_a_model_that_babbles_drops_its_pairs_and_nothing_else(tmp_path: Path) -> None:
    _save_model(tmp_path / "babbler", "once upon a time there was", template=False)
    writer = LlmWriter(
        LocalChat(tmp_path / "babbler"), ReplyCache(tmp_path / "r"), Budget(), LlmOptions(40, 2)
    )
    manifest = build(tmp_path / "set", config=replace(CONFIG, users=3, cutoffs=1, topics=2), writer=writer)
    assert rows_of(tmp_path / "set", "uqa") == []
    assert manifest.counts["verdict"]["dropped"] == 3
    assert len(rows_of(tmp_path / "set", "future")) == 24
    assert writer.tallies["malformed"] == 6


def test_other_weights_are_another_model(checkpoint: Path, tmp_path: Path) -> None:
    _save_model(tmp_path / "tiny-teller", json.dumps(REPLY).replace("987", "986"))
    assert LocalChat(tmp_path / "tiny-teller").model != LocalChat(checkpoint).model


def test_a_prompt_that_does_not_fit_is_refused(checkpoint: Path) -> None:
    chat = LocalChat(checkpoint)
    with pytest.raises(InputError, match="exceed the model's 4096"):
        chat.complete([Message("user", "word " * 4000)], 200, {})


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model in"):
        LocalChat(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match="cannot be loaded"):
        LocalChat(tmp_path)
