"""Folders of files that are complete or absent, and that notice when a file of theirs has changed."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qanchor.disk import sync, sync_folder
from qanchor.errors import CheckpointInvalid, DiskFull

MANIFEST = "manifest.json"
_REMEDY = "Copy it again, or train it anew."


@dataclass(frozen=True)
class Manifest:
    """What a stored folder says of itself.

    Args:
        metadata: JSON of whoever wrote it.
        content_hash: over the names and contents of all files, without the metadata.
    """

    metadata: dict[str, Any]
    content_hash: str


def write_folder(
    path: Path, kind: str, version: int, write: Callable[[Path], None], metadata: Mapping[str, Any]
) -> str:
    """Write a folder through a temporary one beside it, and give its content hash.

    Args:
        path: the folder; must not exist.
        kind: what it holds, such as "model".
        version: of its format.
        write: writes the files into the folder it is given.
        metadata: kept in the manifest; JSON.

    Raises:
        CheckpointInvalid: the folder exists; choose another version's name.
        DiskFull: no space is left; free some.
    """
    if path.exists():
        raise CheckpointInvalid(f"{path} exists already", "Choose another name, or delete it.")
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        write(scratch)
        files = {file.name: _file_hash(file) for file in sorted(scratch.iterdir())}
        content = {"kind": kind, "format_version": version, "files": files, "metadata": dict(metadata)}
        (scratch / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        sync_folder(scratch)  # before the folder gets its name
        scratch.rename(path)
        sync(path.parent)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(f"no space left to write {path}", "Free some space and run it again.") from error
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return _content_hash(kind, version, files)


def read_manifest(path: Path, kind: str, version: int) -> Manifest:
    """The manifest of a folder whose every file is there and unchanged.

    Args:
        path: the folder.
        kind: what it has to hold.
        version: of the format that this code reads.

    Raises:
        CheckpointInvalid: there is none, it is of another kind or version, or a file is missing or damaged.
    """
    try:
        content = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        found, files = (content["kind"], content["format_version"]), dict(content["files"])
        metadata = dict(content["metadata"])
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointInvalid(f"there is no {kind} at {path}", "Check the path, or train one.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointInvalid(f"{path / MANIFEST} is damaged", _REMEDY) from error
    if found[0] != kind:
        raise CheckpointInvalid(f"{path} holds a {found[0]}, not a {kind}", "Check the path.")
    if found[1] != version:
        raise CheckpointInvalid(
            f"{path} has format version {found[1]}, and this qanchor reads {version}",
            "Use the qanchor that wrote it, or train it anew.",
        )
    for name, expected in files.items():
        if not (path / name).is_file():
            raise CheckpointInvalid(f"{path / name} is missing", _REMEDY)
        if _file_hash(path / name) != expected:
            raise CheckpointInvalid(f"{path / name} is damaged", _REMEDY)
    return Manifest(metadata, _content_hash(kind, version, files))


def _content_hash(kind: str, version: int, files: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps([kind, version, dict(files)], sort_keys=True).encode()).hexdigest()


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
