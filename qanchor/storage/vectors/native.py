"""faiss, loaded by the call that needs it."""

from typing import Any


def load_faiss() -> Any:
    """The module; untyped on purpose, as its own stubs lack the search parameters."""
    import faiss

    return faiss


def numpy_view(flat: Any) -> Any:
    """The vectors of a flat faiss index, float32 [rows, width], not copied: the index must outlive them."""
    faiss = load_faiss()
    return faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)
