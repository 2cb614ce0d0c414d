"""Results of the quality benchmark on disk, so that an interrupted run goes on and says what it found there.

A result's name is a hash of all that decides it: the code that made it, the versions of the libraries behind
that code, the settings and the data. Other code or other settings never take it.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Kept:
    """One result that a run asked for.

    Args:
        stage: what it is, in words.
        found: whether an earlier run had made it.
        made: when it was made, UTC.
        seconds: wall clock of this run, 0 where it was found.
    """

    stage: str
    found: bool
    made: datetime
    seconds: float


class ResultCache:
    """A folder of results, and the account of what one run took from it.

    Args:
        folder: created when the first result is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.account: list[Kept] = []

    def keep(self, stage: str, name: str, decided_by: object, make: Callable[[Path], None]) -> Path:
        """The file or folder of a result, made where it is not there yet.

        Args:
            stage: what it is, in words, for the account.
            name: begins the file's name and gives its ending.
            decided_by: code, settings and data, as JSON.
            make: writes the result to the path that it is given; the cache then puts it in place, so that an
                interrupted run leaves no half of one.
        """
        content = json.dumps(decided_by, sort_keys=True, default=str).encode()
        stem, ending = Path(name).stem, Path(name).suffix
        path = self._folder / f"{stem}-{hashlib.sha256(content).hexdigest()[:20]}{ending}"
        began, found = time.monotonic(), path.exists()
        if not found:
            self._folder.mkdir(parents=True, exist_ok=True)
            scratch = path.with_name(f".{os.getpid()}-{path.name}")
            _remove(scratch)
            try:
                make(scratch)
                scratch.rename(path)
            finally:
                _remove(scratch)
        seconds = time.monotonic() - began
        made = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        self.account.append(Kept(stage, found, made, 0.0 if found else seconds))
        said = f"found, made {made:%Y-%m-%d %H:%M} UTC" if found else f"{seconds:.1f} s"
        print(f"{stage}: {said}", file=sys.stderr, flush=True)
        return path

    def rows(self) -> list[dict[str, Any]]:
        """The account as rows of a table: what was made in this run, and what was there and since when."""
        stages = dict.fromkeys(kept.stage for kept in self.account)
        return [_row(stage, [kept for kept in self.account if kept.stage == stage]) for stage in stages]


def _row(stage: str, kept: list[Kept]) -> dict[str, Any]:
    found = [one.made for one in kept if one.found]
    since = f"{min(found):%Y-%m-%d %H:%M} to {max(found):%H:%M} UTC" if found else ""
    return {
        "stage": stage,
        "made now": len(kept) - len(found),
        "s": round(sum(one.seconds for one in kept)),
        "from the cache": len(found),
        "made": since,
    }


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


@cache
def code_hash(*parts: str, without: tuple[str, ...] = (), libraries: tuple[str, ...] = ()) -> str:
    """Identifies the code behind a result.

    Args:
        parts: modules and folders, relative to the repository's root.
        without: beginnings of names of files that do not count.
        libraries: distributions whose versions count, too.
    """
    digest = hashlib.sha256()
    for part in parts:
        path = _ROOT / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            if not file.name.startswith(without or ("\0",)):
                digest.update(str(file.relative_to(_ROOT)).encode() + file.read_bytes())
    digest.update(json.dumps({name: version(name) for name in libraries}, sort_keys=True).encode())
    return digest.hexdigest()
