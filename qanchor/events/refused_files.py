"""Rows of event files that `events load` refused: JSON lines in the home's folder of dead letters."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import msgspec


@dataclass(frozen=True)
class RefusedRows:
    """Rows of one file that were refused for one reason.

    Args:
        file: name of the file that holds them.
        reason: short, snake_case.
        rows: number of rows.
    """

    file: str
    reason: str
    rows: int


class _Line(msgspec.Struct, gc=False):
    reason: str = "unknown"


_DECODE = msgspec.json.Decoder(_Line).decode


def read_refused_files(folder: Path) -> list[RefusedRows]:
    """Count the refused rows by file and reason; files that are being written are left out."""
    counted: list[RefusedRows] = []
    for path in sorted(folder.glob("[!_.]*.jsonl")):
        reasons: Counter[str] = Counter()
        with path.open("rb") as lines:
            for line in lines:
                try:
                    reasons[_DECODE(line).reason] += 1
                except (msgspec.DecodeError, UnicodeDecodeError):
                    reasons["unreadable"] += 1
        counted += [RefusedRows(path.name, reason, rows) for reason, rows in reasons.most_common()]
    return counted
