"""The files of an index: a folder for each segment, written whole or not at all, mapped when read."""

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from qanchor.errors import DiskFull, FingerprintMismatch, IndexInvalid
from qanchor.files import atomic_folder
from qanchor.names import USER_ID
from qanchor.storage.vectors.exact import load_faiss
from qanchor.storage.vectors.index import VectorIndex
from qanchor.storage.vectors.metadata import FORMAT, IndexMetadata, SegmentMetadata
from qanchor.storage.vectors.segment import Segment

_INDEX, _USERS, _METADATA, _REMOVED = "index.faiss", "users.arrow", "metadata.json", "removed.npy"
_SEGMENT_FILES: Final = (_INDEX, _USERS)


def save_index(index: VectorIndex, folder: Path) -> IndexMetadata:
    """Write an index to a new folder, whole or not at all.

    Segments that were loaded from a folder are linked, not copied: an update costs what changed.

    Returns:
        The metadata as written.

    Raises:
        DiskFull: no space is left; free some.
    """
    with atomic_folder(folder) as staged:
        try:
            for number, segment in enumerate(index.segments):
                _write_segment(segment, staged / f"{number:05d}")
            np.save(staged / _REMOVED, index.removed)
        except RuntimeError as error:  # faiss has one error for all that can happen to a file
            raise DiskFull(
                f"index {folder} could not be written: {str(error).splitlines()[0]}",
                "Free some space, build it again.",
            ) from error
        files = sorted(path for path in staged.rglob("*") if path.is_file())
        sizes = {str(path.relative_to(staged)): path.stat().st_size for path in files}
        written = replace(index.metadata, sizes=sizes)
        (staged / _METADATA).write_text(json.dumps(asdict(written), indent=2) + "\n", encoding="utf-8")
    return written


def load_index(folder: Path, fingerprint: str | None = None) -> VectorIndex:
    """The index of a folder, its vectors mapped from disk and read on demand.

    Args:
        folder: folder that `save_index` wrote.
        fingerprint: expected fingerprint of the embedding space; None accepts any.

    Raises:
        IndexInvalid: a file is missing, cut off or of another format; build the index again.
        FingerprintMismatch: the index is of another embedding space; build it again.
    """
    metadata = read_metadata(folder)
    if fingerprint is not None and metadata.fingerprint != fingerprint:
        raise FingerprintMismatch(
            f"index {folder} is of embedding space {metadata.fingerprint[:12]}, not {fingerprint[:12]}",
            "Run `qanchor-cli index build`.",
        )
    try:
        segments = [
            _load_segment(folder / f"{number:05d}", segment)
            for number, segment in enumerate(metadata.segments)
        ]
        removed = np.load(folder / _REMOVED)
    except (RuntimeError, OSError, ValueError, pa.ArrowException, KeyError) as error:
        raise _damaged(folder, str(error).splitlines()[0]) from error
    for segment in segments:
        whole = segment.index.ntotal == len(segment.users) == segment.metadata.rows
        if not whole or segment.index.d != metadata.width:
            raise _damaged(folder, "its files do not belong together")
    return VectorIndex(metadata, segments, removed)


def read_metadata(folder: Path) -> IndexMetadata:
    """The metadata of an index, its files' sizes checked.

    Raises:
        IndexInvalid: a file is missing, cut off or of another format; build the index again.
    """
    try:
        values = json.loads((folder / _METADATA).read_text(encoding="utf-8"))
        if values.get("format") != FORMAT:
            raise _damaged(folder, f"it has format {values.get('format')}, not {FORMAT}")
        values["segments"] = tuple(SegmentMetadata(**segment) for segment in values["segments"])
        metadata = IndexMetadata(**values)
        sizes = {name: (folder / name).stat().st_size for name in metadata.sizes or {}}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(folder, str(error)) from error
    if not sizes or sizes != metadata.sizes:
        raise _damaged(folder, "a file was cut off")
    return metadata


def _write_segment(segment: Segment, folder: Path) -> None:
    folder.mkdir()
    if segment.folder is not None:
        for name in _SEGMENT_FILES:
            _link(segment.folder / name, folder / name)
        return
    load_faiss().write_index(segment.index, str(folder / _INDEX))
    table = pa.table({USER_ID: segment.users})
    with pa.OSFile(str(folder / _USERS), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _load_segment(folder: Path, metadata: SegmentMetadata) -> Segment:
    faiss = load_faiss()
    with pa.memory_map(str(folder / _USERS)) as source:
        users = pa.ipc.open_file(source).read_all()[USER_ID].combine_chunks()
    index = faiss.read_index(str(folder / _INDEX), faiss.IO_FLAG_MMAP_IFC)
    return Segment(metadata, users, index, folder)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _damaged(folder: Path, reason: str) -> IndexInvalid:
    return IndexInvalid(f"index {folder} cannot be read: {reason}", "Run `qanchor-cli index build`.")
