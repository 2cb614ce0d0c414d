"""Results of the quality benchmark on disk: a run continues an interrupted one and reports what it reuses.

A result's name is a hash of its inputs: code, versions of the libraries, settings and data. Other code or
other settings never reuse it.
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
class CachedResult:
    """One result that a run used.

    Args:
        stage: stage of the benchmark, in words.
        reused: whether an earlier run made it.
        made: moment when it was made, UTC.
        seconds: wall-clock time of this run; 0 for a reused result.
    """

    stage: str
    reused: bool
    made: datetime
    seconds: float


class ResultCache:
    """A folder of results, and the account of the results that one run used.

    Args:
        folder: folder of the results; created with the first one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.account: list[CachedResult] = []

    def keep(self, stage: str, name: str, decided_by: object, make: Callable[[Path], None]) -> Path:
        """The file or folder of a result, made if it does not exist.

        Args:
            stage: stage of the benchmark, in words, for the account.
            name: stem and suffix of the file's name.
            decided_by: code, settings and data, as JSON.
            make: function that writes the result to a path; the cache then renames it, so that an interrupted
                run leaves no partial result.
        """
        content = json.dumps(decided_by, sort_keys=True, default=str).encode()
        stem, ending = Path(name).stem, Path(name).suffix
        path = self._folder / f"{stem}-{hashlib.sha256(content).hexdigest()[:20]}{ending}"
        began, reused = time.monotonic(), path.exists()
        if not reused:
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
        self.account.append(CachedResult(stage, reused, made, 0.0 if reused else seconds))
        origin = f"reused, made {made:%Y-%m-%d %H:%M} UTC" if reused else f"{seconds:.1f} s"
        print(f"{stage}: {origin}", file=sys.stderr, flush=True)
        return path

    def rows(self) -> list[dict[str, Any]]:
        """The account as rows of a table: results made in this run, and reused ones with their age."""
        stages = dict.fromkeys(result.stage for result in self.account)
        return [_row(name, [each for each in self.account if each.stage == name]) for name in stages]


def _row(stage: str, results: list[CachedResult]) -> dict[str, Any]:
    reused = [one.made for one in results if one.reused]
    since = f"{min(reused):%Y-%m-%d %H:%M} to {max(reused):%H:%M} UTC" if reused else ""
    return {
        "stage": stage,
        "made now": len(results) - len(reused),
        "s": round(sum(one.seconds for one in results)),
        "from the cache": len(reused),
        "made": since,
    }


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


@cache
def code_hash(*parts: str, without: tuple[str, ...] = (), libraries: tuple[str, ...] = ()) -> str:
    """A hash of the code behind a result.

    Args:
        parts: modules and folders, relative to the repository's root.
        without: prefixes of the names of files that are left out.
        libraries: distributions whose versions are part of the hash.
    """
    digest = hashlib.sha256()
    for part in parts:
        path = _ROOT / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            if not file.name.startswith(without or ("\0",)):
                digest.update(str(file.relative_to(_ROOT)).encode() + file.read_bytes())
    digest.update(json.dumps({name: version(name) for name in libraries}, sort_keys=True).encode())
    return digest.hexdigest()
