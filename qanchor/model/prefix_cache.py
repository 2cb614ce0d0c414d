"""Keys and values of users' prefixes, computed once and read by every scenario."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers.cache_utils import DynamicCache


@dataclass(frozen=True)
class PrefixCache:
    """The keys and values that the suffix of any scenario attends to.

    Args:
        keys: per layer [users, heads, tokens, head dim], rotated to their positions.
        values: per layer, alike.
        lengths: int64 [users], tokens of each prefix; the rest, on the right, is padding.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    lengths: Tensor

    @property
    def users(self) -> int:
        """How many users' prefixes it holds."""
        return int(self.lengths.shape[0])

    @property
    def tokens(self) -> int:
        """The padded length."""
        return int(self.keys[0].shape[2])

    def mask(self) -> Tensor:
        """bool [users, tokens], True where a prefix token is."""
        return torch.arange(self.tokens, device=self.lengths.device) < self.lengths[:, None]

    def take(self, rows: Tensor | slice) -> "PrefixCache":
        """Some users' prefixes, without padding that none of them needs; a slice of rows is not copied."""
        lengths = self.lengths[rows]
        tokens = int(lengths.max()) if len(lengths) else 1
        return PrefixCache(
            tuple(layer[rows][:, :, :tokens] for layer in self.keys),
            tuple(layer[rows][:, :, :tokens] for layer in self.values),
            lengths,
        )

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "PrefixCache":
        """The cache on a device, its keys and values in a number format."""
        return PrefixCache(
            tuple(layer.to(device=device, dtype=dtype) for layer in self.keys),
            tuple(layer.to(device=device, dtype=dtype) for layer in self.values),
            self.lengths.to(device=device),
        )

    @staticmethod
    def gather(parts: Sequence["CachedRows"], users: int) -> "PrefixCache":
        """Rows of several caches as one, padded to the longest prefix among them.

        Args:
            parts: together they fill every row of the result, from 0 to users - 1, once.
            users: rows of the result.
        """
        lengths = parts[0].cache.lengths.new_zeros(users)
        for part in parts:
            lengths[part.targets] = part.cache.lengths[part.rows]
        tokens = int(lengths.max())

        def gathered(layers: Sequence[Tensor]) -> Tensor:
            first = layers[0]
            result = first.new_zeros(users, first.shape[1], tokens, first.shape[3])
            for layer, part in zip(layers, parts, strict=True):
                kept = min(tokens, layer.shape[2])
                result[part.targets, :, :kept] = layer[part.rows, :, :kept]
            return result

        depth = range(len(parts[0].cache.keys))
        return PrefixCache(
            tuple(gathered([part.cache.keys[layer] for part in parts]) for layer in depth),
            tuple(gathered([part.cache.values[layer] for part in parts]) for layer in depth),
            lengths,
        )

    def overlay(self) -> "DynamicCache":
        """A transformers DynamicCache that starts from these tensors.

        Its `update` joins new keys to them in new tensors, so this cache never changes.
        """
        from transformers.cache_utils import DynamicCache, DynamicLayer

        cache = DynamicCache()
        for keys, values in zip(self.keys, self.values, strict=True):
            layer = DynamicLayer()
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
            cache.layers.append(layer)
        return cache


@dataclass(frozen=True)
class CachedRows:
    """Some rows of a cache, and where they go.

    Args:
        cache: prefixes of some users.
        rows: int64 [rows], rows of the cache.
        targets: int64 [rows], rows of the result.
    """

    cache: PrefixCache
    rows: Tensor
    targets: Tensor


class LayerCache:
    """One layer's keys and values, in the form that transformers' attention calls.

    Args:
        before: keys and values [batch, heads, tokens, head dim], or empty.
    """

    def __init__(self, before: Sequence[Tensor] = ()) -> None:
        self._states = tuple(before)

    def update(self, keys: Tensor, values: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Join new keys and values to the earlier ones, and return all of them."""
        if self._states:
            keys = torch.cat([self._states[0], keys], dim=-2)
            values = torch.cat([self._states[1], values], dim=-2)
        self._states = (keys, values)
        return keys, values

    def joined(self) -> tuple[Tensor, Tensor]:
        """All keys and values."""
        keys, values = self._states
        return keys, values

    @staticmethod
    def of(cache: "DynamicCache", number: int) -> tuple[Tensor, ...]:
        """Keys and values of one layer of an overlay; empty where it has none yet."""
        layers = cache.layers
        return (layers[number].keys, layers[number].values) if number < len(layers) else ()

    @staticmethod
    def put(cache: "DynamicCache", number: int, keys: Tensor, values: Tensor) -> None:
        """Set the keys and values of one layer of an overlay."""
        if number < len(cache.layers):
            cache.layers[number].keys, cache.layers[number].values = keys, values
        else:
            cache.layers += PrefixCache((keys,), (values,), keys.new_zeros(0)).overlay().layers
