"""Nested widths: the first numbers of a vector are a vector of their own, shorter and coarser.

Source: Kusupati et al., arXiv 2205.13147 (Matryoshka representations).
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize


def narrowed(vectors: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Unit vectors of the first numbers.

    Args:
        vectors: unit vectors, float32 [..., dim].
        width: numbers kept, at most dim.

    Returns:
        float32 [..., width].
    """
    if width == vectors.shape[-1]:
        return vectors
    kept = vectors[..., :width]
    length = np.linalg.norm(kept, axis=-1, keepdims=True)
    result: NDArray[np.float32] = (kept / np.maximum(length, 1e-12)).astype(np.float32, copy=False)
    return result


def at_widths(vectors: Tensor, widths: tuple[int, ...]) -> list[Tensor]:
    """The vectors at each width and as they are, with zeros where a narrower one has no numbers.

    Products of two such vectors are those of the narrowed ones, so a loss takes them as it takes whole ones.

    Args:
        vectors: unit vectors, [batch, dim].
        widths: below dim, at most it; those that are dim itself say nothing.

    Returns:
        Unit vectors [batch, dim] each, the whole ones last.
    """
    whole: Any = vectors.shape[-1]
    places = torch.arange(whole, device=vectors.device)
    narrow = [normalize(vectors * (places < width), dim=-1) for width in sorted(widths) if width < whole]
    return [*narrow, vectors]
