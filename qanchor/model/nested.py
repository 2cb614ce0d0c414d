"""Nested widths: the first numbers of a vector are a vector of their own, shorter and coarser.

Source: Kusupati et al., arXiv 2205.13147 (Matryoshka representations).
"""

import numpy as np
from numpy.typing import NDArray


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
