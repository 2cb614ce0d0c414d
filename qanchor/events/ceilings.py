"""The best area a scenario can reach, where the world behind its labels is known: `labels/ceilings.json`.

One object: a scenario's name to its ceiling, or to an object whose `expected` is the ceiling.
"""

import json
import os
from pathlib import Path

from qanchor.errors import LabelsInvalid
from qanchor.home import Home

_FILE = "ceilings.json"


def read_ceilings(home: Home) -> dict[str, float]:
    """The known ceilings by scenario, areas in (0.5, 1]; empty where none is known.

    Raises:
        LabelsInvalid: the file does not hold; mend or delete it.
    """
    return _read(home.labels / _FILE)


def take_ceiling(labels: Path, scenario: str, home: Home) -> None:
    """Keep the ceiling that stands beside a label file or one folder up, or forget an earlier one.

    Args:
        labels: the label file that was loaded.
        scenario: its scenario.
        home: where it is kept.

    Raises:
        LabelsInvalid: a ceilings.json there does not hold.
    """
    folders = (labels.resolve().parent, labels.resolve().parent.parent)
    found = next(
        (known[scenario] for folder in folders if scenario in (known := _read(folder / _FILE))), None
    )
    kept = read_ceilings(home)
    if kept.get(scenario) == found:
        return
    changed = {name: value for name, value in kept.items() if name != scenario}
    if found is not None:
        changed[scenario] = found
    final = home.labels / _FILE
    staged = final.with_name(f".{_FILE}.{os.getpid()}.tmp")
    try:
        staged.write_text(json.dumps(dict(sorted(changed.items())), indent=2) + "\n", encoding="utf-8")
        staged.replace(final)
    finally:
        staged.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, float]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        values = {
            str(name): float(value["expected"] if isinstance(value, dict) else value)
            for name, value in content.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LabelsInvalid(f"{path} holds no ceilings", "Mend it or move it away.") from error
    for name, value in values.items():
        if not 0.5 < value <= 1:
            raise LabelsInvalid(f"{path}: the ceiling of {name} is {value}", "Give an area in (0.5, 1].")
    return values
