"""Shared by all benchmarks: options, the machine, bars, and the JSON file."""

import argparse
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Bar:
    """A figure with its requirement.

    Args:
        name: name of the figure.
        value: measured value.
        bar: required value.
        better: direction of better values.
    """

    name: str
    value: float
    bar: float
    better: Literal["higher", "lower"]

    @property
    def holds(self) -> bool:
        """Whether the figure reaches its bar."""
        return self.value >= self.bar if self.better == "higher" else self.value <= self.bar


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--quick", action="store_true", help="at most five minutes on two cores, ratios still meaningful"
    )
    parser.add_argument("--json", type=Path, help="output file of the figures")
    return parser


def machine() -> dict[str, Any]:
    """The machine that the figures were measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a Markdown table, so that a run can be pasted into docs/benchmarks.md."""
    if not rows:
        return "(no rows)"
    columns = list(rows[0])
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(len(column), *(len(row[i]) for row in cells)) for i, column in enumerate(columns)]
    lines = [columns, ["-" * width for width in widths], *cells]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def finish(figures: dict[str, Any], bars: Sequence[Bar], path: Path | None) -> None:
    """Print the bars, and write machine, figures and bars as JSON if a path is given.

    Args:
        figures: figures by name.
        bars: figures with requirements.
        path: JSON file; None: no file.
    """
    about = machine()
    system = f"{about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB"
    print(f"\n{system}, Python {about['python']}, {about['date']}\n")
    if bars:
        rows = [
            {
                "bar": bar.name,
                "measured": bar.value,
                "required": f"{'>=' if bar.better == 'higher' else '<='} {bar.bar:g}",
                "holds": "yes" if bar.holds else "NO",
            }
            for bar in bars
        ]
        print(table(rows))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "machine": about,
            "figures": figures,
            "bars": [{**asdict(bar), "holds": bar.holds} for bar in bars],
        }
        path.write_text(json.dumps(content, indent=2) + "\n")
