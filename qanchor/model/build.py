"""A model from its configuration: from scratch, or with stored weights."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

from qanchor.model.backbone import Backbone
from qanchor.model.config import BackboneConfig, ModelConfig
from qanchor.model.hierarchy import HierarchicalEncoder
from qanchor.model.qanchor import QAnchor
from qanchor.model.text_encoder import BagTextEncoder
from qanchor.model.tokens import TextTokenizer, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def make_tokenizer(config: ModelConfig, texts: Iterable[str]) -> TextTokenizer:
    """The tokenizer of a new model: of its stored backbone and text encoder, or trained on the texts.

    Args:
        config: the model's configuration.
        texts: event texts, questions and answers.

    Raises:
        NotReady: a stored tokenizer is not on this machine.
    """
    from qanchor.model.pretrained import load_tokenizer

    events = load_tokenizer(config.text_encoder.source)[0] if config.text_encoder.source else None
    if config.backbone.source:
        language, pad_id, end_id = load_tokenizer(config.backbone.source)
        return TextTokenizer(language, pad_id, end_id, events)
    return train_tokenizer(texts, config.vocabulary, events)


def build_model(config: ModelConfig, tokenizer: TextTokenizer, seed: int = 0) -> QAnchor:
    """A model, with fresh weights where none are stored.

    Args:
        config: shape of the model.
        tokenizer: source of the vocabularies.
        seed: seed of the fresh weights; the global generator is not touched.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = _text_encoder(config, tokenizer)
        lm = _language_model(config.backbone, tokenizer.vocabulary)
        encoder = HierarchicalEncoder(config, text_encoder)
        return QAnchor(config, encoder, Backbone(lm, tokenizer.user_id), tokenizer.pad_id)


def _text_encoder(config: ModelConfig, tokenizer: TextTokenizer) -> nn.Module:
    if config.text_encoder.kind == "bag":
        return BagTextEncoder(tokenizer.event_vocabulary, config.text_encoder.width)
    from qanchor.model.pretrained import load_text_encoder

    encoder: nn.Module = load_text_encoder(config.text_encoder)
    return encoder


def _language_model(config: BackboneConfig, vocabulary: int) -> "PreTrainedModel":
    if config.source:
        from qanchor.model.pretrained import load_language_model

        return load_language_model(config)
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=config.width,
            intermediate_size=config.feed_forward,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.key_value_heads,
            max_position_embeddings=config.max_tokens,
            tie_word_embeddings=True,
            # The usual 0.02 suits widths of thousands: at 64 it starts all users at a cosine of 0.985.
            initializer_range=config.width**-0.5,
            attn_implementation="sdpa",
            # The tokenizer alone knows special tokens; ids that transformers assumes may not exist here.
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
