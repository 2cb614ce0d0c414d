"""Files of the event log that a compaction has replaced: hidden from new readers at once, deleted later.

They stay where they are until then, because a reader that began before has their paths. A note beside them,
`_replaced-*.json`, names them. Readers ask for the notes BEFORE they list the files: the replacement is in
place before the note is, so nobody ever sees neither.
"""

import json
import os
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_NOTE: Final = "_replaced-*.json"
_TORN_SECONDS: Final = 60.0


def hidden_files(root: Path, folders: str = "*") -> set[Path]:
    """Files that are no data any more.

    Args:
        root: the event log's folder.
        folders: pattern of the date folders to look into.
    """
    return {file for note in root.glob(f"{folders}/{_NOTE}") for file in _named_in(note)}


def hide_files(folder: Path, file_names: Collection[str], moment: float | None = None) -> None:
    """Take files out of every new reader's sight, all at once.

    Args:
        folder: a date folder.
        file_names: of files in it whose replacement is in place.
        moment: seconds since the epoch, from which their grace period runs; default: now.
    """
    at = time.time() if moment is None else moment
    note = folder / f"_replaced-{time.time_ns():x}-{os.getpid()}.json"
    part = note.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        json.dump({"at": at, "files": sorted(file_names)}, file)
        file.flush()
        os.fsync(file.fileno())
    part.rename(note)


def expired_notes(root: Path, older_than_seconds: float) -> Iterator[tuple[Path, list[Path]]]:
    """Notes whose grace period is over, each with its files, those deleted already included."""
    for torn in root.glob("*/_replaced-*.part"):  # of a process that was killed
        with suppress(FileNotFoundError):  # another process cleans up too
            if time.time() - torn.stat().st_mtime >= max(older_than_seconds, _TORN_SECONDS):
                torn.unlink()
    for note in sorted(root.glob(f"*/{_NOTE}")):
        if time.time() - json.loads(note.read_text(encoding="utf-8"))["at"] >= older_than_seconds:
            yield note, _named_in(note)


def _named_in(note: Path) -> list[Path]:
    try:
        listed = json.loads(note.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []  # deleted since it was listed, and its files before it
    return [note.with_name(name) for name in listed["files"]]
