"""Texts of events to vectors: a bag of tokens trained from scratch, or a pre-trained transformer."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from qanchor.model.config import Pooling


class TextEncoder(Protocol):
    """The role: from event texts to vectors (arXiv 2602.14492, section 3.2.1)."""

    def __call__(self, text_ids: Tensor, text_mask: Tensor) -> Tensor:
        """One vector for each text.

        Args:
            text_ids: int64 [texts, tokens].
            text_mask: bool [texts, tokens], True where a token is.

        Returns:
            [texts, dim].
        """
        ...


class BagTextEncoder(nn.Module):
    """The mean of a text's token vectors, and a small network on it.

    Args:
        vocabulary: number of tokens.
        width: width of a token's vector and of the result.
    """

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.mix = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, text_ids: Tensor, text_mask: Tensor) -> Tensor:
        """One vector for each text, as TextEncoder."""
        weight = text_mask.to(self.embedding.weight.dtype)[:, :, None]
        mean = (self.embedding(text_ids) * weight).sum(1) / weight.sum(1).clamp(min=1)  # [texts, dim]
        result: Tensor = mean + self.mix(mean)
        return result


class TransformerTextEncoder(nn.Module):
    """One vector of a pre-trained encoder: its first token's, or the mean over all tokens.

    Args:
        encoder: a transformers encoder, LoRA already in it.
        pooling: cls, as the paper's authors read theirs, or mean, as most sentence encoders were trained.
    """

    def __init__(self, encoder: nn.Module, pooling: Pooling = "cls") -> None:
        super().__init__()
        self.encoder = encoder
        self._pooling = pooling

    def forward(self, text_ids: Tensor, text_mask: Tensor) -> Tensor:
        """One vector for each text, as TextEncoder."""
        output: Any = self.encoder(input_ids=text_ids, attention_mask=text_mask.to(torch.int64))
        states: Tensor = output.last_hidden_state
        if self._pooling == "cls":
            return states[:, 0]
        weight = text_mask.to(states.dtype)[:, :, None]
        return (states * weight).sum(1) / weight.sum(1).clamp(min=1)
