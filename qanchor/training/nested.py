"""Nested widths in a loss: what holds for whole vectors is asked of their first numbers, too.

Source: Kusupati et al., arXiv 2205.13147 (Matryoshka representations).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize


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
