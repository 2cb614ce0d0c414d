"""Tiny decoders and text encoders on disk, written as the published ones are."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from tests.unit.model.worlds import QUERIES, WORDS

WIDTH, TEXT_WIDTH = 32, 24
FAMILIES = ("qwen2", "qwen3", "llama", "mistral")
TEXT_FAMILIES = ("bert", "distilbert", "modernbert")
_SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def store_decoder(folder: Path, family: str, **changes: Any) -> Path:
    """A decoder of a family with random weights, and its tokenizer; Llama's has no padding token."""
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    specials = {"llama": ["<|begin_of_text|>", "<|eot_id|>", "<|more|>"]}
    specials["mistral"] = ["<s>", "</s>", "<unk>"]
    names = specials.get(family, ["<|endoftext|>", "<|im_end|>", "<|im_start|>"])
    language = Tokenizer(models.BPE())
    language.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    language.train_from_iterator(
        [*QUERIES, *WORDS],
        trainers.BpeTrainer(
            vocab_size=330,
            special_tokens=names,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    roles = {
        "llama": {"bos_token": names[0], "eos_token": names[1]},
        # As some do: the padding token is the one that ends a text.
        "mistral": {"bos_token": names[0], "eos_token": names[1], "pad_token": names[1]},
    }.get(family, {"pad_token": names[0], "eos_token": names[1]})
    PreTrainedTokenizerFast(tokenizer_object=language, **roles).save_pretrained(folder)
    # No row is left for another token, so <|user_emb|> cannot borrow one.
    sizes = {"vocab_size": language.get_vocab_size(), **_SIZES, "bos_token_id": 0, "eos_token_id": 1}
    if family == "qwen3":
        sizes["head_dim"] = 16  # not width / heads, as in the published ones
    config = AutoConfig.for_model(family, **{**sizes, "tie_word_embeddings": family != "llama", **changes})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def store_text_encoder(folder: Path, family: str = "bert", width: int = TEXT_WIDTH) -> Path:
    """A text encoder of a family with random weights, and its tokenizer."""
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
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
    ).save_pretrained(folder)
    sizes: dict[str, Any] = {"vocab_size": words.get_vocab_size(), "max_position_embeddings": 64}
    if family == "distilbert":
        sizes |= {"dim": width, "n_layers": 2, "n_heads": 2, "hidden_dim": 40}
    else:
        sizes |= {
            "hidden_size": width,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 40,
            "pad_token_id": 0,
            "cls_token_id": 2,
            "sep_token_id": 3,
            "bos_token_id": 2,
            "eos_token_id": 3,
        }
    AutoModel.from_config(AutoConfig.for_model(family, **sizes)).save_pretrained(folder)
    return folder
