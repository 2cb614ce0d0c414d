"""The one way to write: a file or a folder is whole or absent, and on the disk before its name counts."""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from qanchor.errors import CheckpointInvalid, DiskFull

MANIFEST: Final = "manifest.json"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SYNC_THREADS: Final = 16
_REMEDY = "Copy it again, or train it again."


def sync(path: Path) -> None:
    """Force a file's content, or a folder's list of files, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_all(paths: Collection[Path]) -> None:
    """Force files or folders to the disk: together, because a file system commits many at the cost of one."""
    with ThreadPoolExecutor(max(1, min(_SYNC_THREADS, len(paths)))) as pool:
        deque(pool.map(sync, paths), maxlen=0)


def sync_folder(folder: Path) -> None:
    """Force a folder and all that is in it, subfolders included, to the disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


@contextmanager
def full_disk_as_error(target: Path) -> Iterator[None]:
    """Turn a full disk, quota or file-size limit into a DiskFull that names `target`.

    Raises:
        DiskFull: no space is left; free some.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DiskFull(
            f"no space left for {target}", "Free some and run it again; nothing half-written counts."
        ) from error


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder; the file written there replaces `path` when the block ends.

    After a crash at any moment `path` holds either the old content or the new one. The temporary name is
    unique, so that two processes may write one target: the last one wins. It begins with a dot and ends in
    `.tmp`, which neither pyarrow nor DuckDB takes for data.

    Args:
        path: the file; its folder is created.

    Raises:
        DiskFull: no space is left; `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = temporary_beside(path)
    try:
        with full_disk_as_error(path):
            yield staged
            sync(staged)
            staged.replace(path)
            sync(path.parent)
    finally:
        staged.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file's content in one step; text is written as UTF-8.

    Raises:
        DiskFull: no space is left; the file is as it was.
    """
    with atomic_file(path) as staged:
        staged.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder next to `path`, renamed to it when the block ends; nothing is left otherwise.

    Args:
        path: the folder; must not exist, or be empty.

    Raises:
        DiskFull: no space is left.
        OSError: the folder exists and is not empty.
    """
    staged = temporary_beside(path)
    try:
        with full_disk_as_error(path):
            staged.mkdir(parents=True)
            yield staged
            sync_folder(staged)
            staged.rename(path)
            sync(path.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def temporary_beside(path: Path) -> Path:
    """A hidden name in the same folder that no other process or thread uses."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checked_file(path: Path, expected_hash: str, remedy: str) -> Path:
    """The path of a file, once its content has the hash that was recorded.

    Raises:
        CheckpointInvalid: the file is missing or was edited.
    """
    try:
        actual = file_hash(path)
    except OSError as error:
        raise CheckpointInvalid(f"{path} cannot be read: {error}", remedy) from error
    if actual != expected_hash:
        raise CheckpointInvalid(f"{path} was changed since it was written", remedy)
    return path


@dataclass(frozen=True)
class ArtifactFolder:
    """A stored folder whose manifest names every file with its hash.

    Args:
        path: of the folder.
        metadata: JSON of its writer, stored with the files.
        content_hash: SHA-256 over the names and contents of all files, without the metadata.
    """

    path: Path
    metadata: dict[str, Any]
    content_hash: str

    @classmethod
    def write(
        cls, path: Path, kind: str, version: int, fill: Callable[[Path], None], metadata: Mapping[str, Any]
    ) -> "ArtifactFolder":
        """Write a folder in one step.

        Args:
            path: the folder; must not exist.
            kind: what it holds, such as "model".
            version: of its format.
            fill: writes the files into its argument, a folder.
            metadata: kept in the manifest; JSON.

        Raises:
            CheckpointInvalid: the folder exists; choose another version's name.
            DiskFull: no space is left; free some.
        """
        if path.exists():
            raise CheckpointInvalid(f"{path} exists already", "Choose another name, or delete it.")
        with atomic_folder(path) as staged:
            fill(staged)
            files = {file.name: file_hash(file) for file in sorted(staged.iterdir())}
            content = {"kind": kind, "format_version": version, "files": files, "metadata": dict(metadata)}
            (staged / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return cls(path, dict(metadata), _content_hash(kind, version, files))

    @classmethod
    def open(cls, path: Path, kind: str, version: int) -> "ArtifactFolder":
        """A folder whose every file is there and unchanged.

        Args:
            path: the folder.
            kind: what it has to hold.
            version: of the format that this code reads.

        Raises:
            CheckpointInvalid: there is none, it is of another kind or version, or a file is missing or
                damaged.
        """
        try:
            content = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            stored, files = (content["kind"], content["format_version"]), dict(content["files"])
            metadata = dict(content["metadata"])
        except (FileNotFoundError, NotADirectoryError):
            raise CheckpointInvalid(
                f"there is no {kind} at {path}", "Check the path, or train one."
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointInvalid(f"{path / MANIFEST} is damaged", _REMEDY) from error
        if stored[0] != kind:
            raise CheckpointInvalid(f"{path} holds a {stored[0]}, not a {kind}", "Check the path.")
        if stored[1] != version:
            raise CheckpointInvalid(
                f"{path} has format version {stored[1]}, and this qanchor reads {version}",
                "Use the qanchor that wrote it, or train it again.",
            )
        for name, expected in files.items():
            if not (path / name).is_file():
                raise CheckpointInvalid(f"{path / name} is missing", _REMEDY)
            if file_hash(path / name) != expected:
                raise CheckpointInvalid(f"{path / name} is damaged", _REMEDY)
        return cls(path, metadata, _content_hash(kind, version, files))


def _content_hash(kind: str, version: int, files: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps([kind, version, dict(files)], sort_keys=True).encode()).hexdigest()
