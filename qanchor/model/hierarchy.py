"""The coarse-to-fine encoder: event, modality and user tokens of a batch of prefixes."""

from typing import cast

import torch
from torch import Tensor, nn

from qanchor.model.batch import EventBatch
from qanchor.model.config import ModelConfig
from qanchor.model.features import AGE_COLUMN, event_feature_width, summary_feature_width
from qanchor.model.tabular import tabular_width
from qanchor.model.text_encoder import TextEncoder

_DECAY_DAYS = 14.0
# Of events of weeks ago alone there is no recent mean: below about this weight it fades to zero.
_LEAST_WEIGHT = 0.05
_TABULAR_WIDTHS = 2  # inner width of the aggregates' encoder, in widths of the backbone


def adapter(width: int, out: int) -> nn.Sequential:
    """LayerNorm -> Linear(width, width) -> GELU -> Linear(width, out).

    Source: arXiv 2602.14492, Eq. 1-2 and the authors' model file.
    """
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, out))


def numbers_encoder(features: int, width: int) -> nn.Sequential:
    """Encoder of the numbers that join a text or a mean."""
    return nn.Sequential(nn.Linear(features, width), nn.GELU(), nn.Linear(width, width))


class TabularTokens(nn.Module):
    """Point-in-time aggregates to prefix tokens, as the paper's structured features become tokens.

    Args:
        features: number of aggregates of a user.
        tokens: number of tokens they become.
        width: inner width.
        out: width of a token.
    """

    def __init__(self, features: int, tokens: int, width: int, out: int) -> None:
        super().__init__()
        # Statistics are stored with the weights, and no optimiser moves them.
        self.mean = nn.Parameter(torch.zeros(features), requires_grad=False)
        self.spread = nn.Parameter(torch.ones(features), requires_grad=False)
        self.encode = nn.Sequential(nn.Linear(features, width), nn.GELU(), nn.Linear(width, tokens * out))
        self._out = out

    @torch.no_grad()
    def fit(self, tabular: Tensor) -> None:
        """Set mean and spread to those of aggregates that training may see, [points, features]."""
        values = tabular.double()
        spread = values.std(0, correction=0)
        self.mean.copy_(values.mean(0))
        self.spread.copy_(torch.where(spread > _SAME, spread, torch.ones_like(spread)))

    def forward(self, tabular: Tensor) -> Tensor:
        """Tokens by user, [batch * tokens, out]; hidden numbers (NaN) count as the mean."""
        known = ~tabular.isnan()
        scaled = ((tabular - self.mean) / self.spread).clamp(-_CLIP, _CLIP)
        # The numbers that are left weigh more, so that tokens are as large as without dropout.
        scale = known.shape[1] / known.sum(1, keepdim=True).clamp(min=1)
        tokens: Tensor = self.encode(torch.where(known, scaled, 0.0) * scale)
        return tokens.view(-1, self._out)


_CLIP = 5.0
_SAME = 1e-4


class HierarchicalEncoder(nn.Module):
    """Histories to prefix tokens.

    h = text(event) + numeric(event). The mean over a modality's events cannot tell one event from a
    hundred, so counts, recency and sums are added to it, as numbers are added to a text; nor can it tell last
    week's events from those of three months ago, so a mean that decays with age is added, too.

    Args:
        config: the model's configuration.
        text_encoder: encoder of event texts, to [texts, text_encoder.width].

    Source: arXiv 2602.14492, Eq. 1-2.
    """

    def __init__(self, config: ModelConfig, text_encoder: nn.Module) -> None:
        super().__init__()
        width, out = config.text_encoder.width, config.backbone.width
        specs = list(config.modalities.values())
        self.config = config
        self.text_encoder = text_encoder
        self.numbers = nn.ModuleList(numbers_encoder(event_feature_width(spec), width) for spec in specs)
        self.summaries = nn.ModuleList(numbers_encoder(summary_feature_width(spec), width) for spec in specs)
        self.recent = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in specs)
        self.event_adapters = nn.ModuleList(adapter(width, out) for _ in specs)
        self.modality_adapter = adapter(width, out)
        self.user_adapter = adapter(width, out)
        if config.tabular_tokens:
            features = tabular_width(config)
            self.tabular = TabularTokens(features, config.tabular_tokens, _TABULAR_WIDTHS * out, out)
        self.starts = nn.Parameter(torch.randn(len(specs), out) * 0.1)
        self.ends = nn.Parameter(torch.randn(len(specs), out) * 0.1)
        self.absent_modality = nn.Parameter(torch.randn(len(specs), out) * 0.1)
        self.absent_user = nn.Parameter(torch.randn(out) * 0.1)

    def forward(self, batch: EventBatch, text_vectors: Tensor | None = None) -> Tensor:
        """Prefix tokens, zero where there is padding.

        Args:
            batch: the histories.
            text_vectors: [all texts, width] of EventArrays.texts; None: the batch's texts are encoded.

        Returns:
            [batch, tokens, d_model].
        """
        return self.assemble(batch, self.event_vectors(batch, text_vectors))

    def assemble(self, batch: EventBatch, vectors: Tensor) -> Tensor:
        """Prefix tokens of encoded events, zero where there is padding.

        Args:
            batch: the histories.
            vectors: h of every event, [events, width].

        Returns:
            [batch, tokens, d_model].
        """
        users = batch.users
        tokens: list[Tensor] = []
        means = self.modality_means(batch, vectors)  # [batch, modalities, width]
        if self.config.use_user_token:
            tokens.append(self._user_tokens(batch, means))
        if self.config.use_modality_tokens:
            present = (batch.counts > 0)[:, :, None]
            absent = self.absent_modality.to(means.dtype)
            tokens.append(torch.where(present, self.modality_adapter(means), absent).flatten(0, 1))
        if self.config.tabular_tokens:
            tokens.append(self.tabular(batch.tabular))
        tokens += [bound.expand(users, -1, -1).flatten(0, 1) for bound in (self.starts, self.ends)]
        sizes = [len(part) for part in batch.numbers]
        parts = torch.split(vectors, sizes)
        tokens += [module(part) for part, module in zip(parts, self.event_adapters, strict=True)]
        flat = torch.cat([token.to(tokens[-1].dtype) for token in tokens])
        width = self.config.backbone.width
        padded = flat.new_zeros(users * batch.tokens, width).index_copy(0, batch.slot, flat)
        return padded.view(users, batch.tokens, width)

    def encode_texts(self, text_ids: Tensor, text_mask: Tensor) -> Tensor:
        """Vectors of texts, [texts, width]."""
        return cast(TextEncoder, self.text_encoder)(text_ids, text_mask)

    def event_vectors(self, batch: EventBatch, text_vectors: Tensor | None = None) -> Tensor:
        """h of every event, [events, width]; each distinct text is encoded once."""
        if text_vectors is None:
            texts = self.encode_texts(batch.text_ids, batch.text_mask)
        else:
            texts = text_vectors.index_select(0, batch.texts)
        numeric = [module(part) for module, part in zip(self.numbers, batch.numbers, strict=True)]
        return texts.index_select(0, batch.text_index) + torch.cat(numeric)

    def modality_means(self, batch: EventBatch, vectors: Tensor) -> Tensor:
        """The input of modality tokens, [batch, modalities, width].

        Args:
            batch: the histories.
            vectors: h of every event, [events, width].
        """
        users, modalities = batch.counts.shape
        counts = batch.counts.clamp(min=1)[:, :, None].to(vectors.dtype)
        means = _segment_sums(vectors, batch.segment, users * modalities).view(users, modalities, -1) / counts
        ages = torch.cat([part[:, AGE_COLUMN] for part in batch.numbers]) * self.config.window_days
        weights = torch.exp(ages / -_DECAY_DAYS)[:, None].to(vectors.dtype)
        recent = _segment_sums(weights * vectors, batch.segment, users * modalities)
        weight = _segment_sums(weights, batch.segment, users * modalities) + _LEAST_WEIGHT
        recent = (recent / weight).view(users, modalities, -1)
        additions = [
            encode_summary(part) + encode_recent(recent[:, number])
            for number, (encode_summary, encode_recent, part) in enumerate(
                zip(self.summaries, self.recent, batch.summary, strict=True)
            )
        ]
        return means + torch.stack(additions, dim=1)

    def _user_tokens(self, batch: EventBatch, means: Tensor) -> Tensor:
        present = (batch.counts > 0).to(means.dtype)  # [batch, modalities]
        share = present / present.sum(1, keepdim=True).clamp(min=1)
        mean = (means * share[:, :, None]).sum(1)
        known = (batch.counts.sum(1) > 0)[:, None]
        return torch.where(known, self.user_adapter(mean), self.absent_user.to(mean.dtype))


def _segment_sums(vectors: Tensor, segment: Tensor, segments: int) -> Tensor:
    """Sums of the rows of each segment, [segments, width]."""
    return vectors.new_zeros(segments, vectors.shape[1]).index_add(0, segment, vectors)
