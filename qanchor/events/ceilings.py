"""The greatest AUC that a scenario can reach, where the world behind its labels is known.

`labels/ceilings.json` is one object: a scenario's name to its ceiling, or to an object whose `expected` is
the ceiling.
"""

import json
from pathlib import Path

from qanchor.errors import LabelsInvalid
from qanchor.files import write_atomically
from qanchor.home import Home

_FILE = "ceilings.json"


def read_ceilings(home: Home) -> dict[str, float]:
    """The known ceilings by scenario, areas in (0.5, 1]; empty where none is known.

    Raises:
        LabelsInvalid: the file is invalid; fix or delete it.
    """
    return _read(home.labels / _FILE)


def take_ceiling(labels: Path, scenario: str, home: Home) -> None:
    """Store the ceiling from a label file's folder or the one above it, or remove a stored one.

    Args:
        labels: the label file that was loaded.
        scenario: name of its scenario.
        home: receives the ceiling.

    Raises:
        LabelsInvalid: a ceilings.json there is invalid.
    """
    folders = (labels.resolve().parent, labels.resolve().parent.parent)
    ceiling = next(
        (known[scenario] for folder in folders if scenario in (known := _read(folder / _FILE))), None
    )
    kept = read_ceilings(home)
    if kept.get(scenario) == ceiling:
        return
    changed = {name: value for name, value in kept.items() if name != scenario}
    if ceiling is not None:
        changed[scenario] = ceiling
    write_atomically(home.labels / _FILE, json.dumps(dict(sorted(changed.items())), indent=2) + "\n")


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
        raise LabelsInvalid(f"{path} holds no ceilings", "Fix it or move it away.") from error
    for name, value in values.items():
        if not 0.5 < value <= 1:
            raise LabelsInvalid(f"{path}: the ceiling of {name} is {value}", "Give an area in (0.5, 1].")
    return values
