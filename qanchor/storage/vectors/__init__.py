"""FAISS indexes of unit vectors with the users they belong to; the only user of faiss.

Exact up to a size at which a scan costs milliseconds; above it the kind is chosen by what was measured. Its
recall is measured when it is built and travels with it.
"""

from qanchor.storage.vectors.build import build_index, update_index
from qanchor.storage.vectors.files import load_index, read_metadata, save_index
from qanchor.storage.vectors.index import VectorIndex
from qanchor.storage.vectors.metadata import (
    EXACT_BELOW,
    RECALL_AT,
    Allowed,
    IndexMetadata,
    IndexPlan,
    Rows,
    Vectors,
)

__all__ = [
    "EXACT_BELOW",
    "RECALL_AT",
    "Allowed",
    "IndexMetadata",
    "IndexPlan",
    "Rows",
    "VectorIndex",
    "Vectors",
    "build_index",
    "load_index",
    "read_metadata",
    "save_index",
    "update_index",
]
