"""The embedding space and width of each scenario's vectors in service, kept in the home."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from qanchor.files import write_atomically
from qanchor.home import Home
from qanchor.names import EMBEDDING_WIDTH
from qanchor.workspace import Workspace


@dataclass(frozen=True)
class ServedSpace:
    """The space of the vectors that serve a scenario.

    Args:
        fingerprint: of the embedding space.
        width: numbers of a vector.
    """

    fingerprint: str
    width: int = EMBEDDING_WIDTH


def read_spaces(home: Home) -> dict[str, ServedSpace]:
    """The space of each scenario that has vectors, by scenario."""
    try:
        content: dict[str, Any] = json.loads(home.fingerprints.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    # Written before narrower vectors could be served: the fingerprint alone.
    return {
        scenario: ServedSpace(stored) if isinstance(stored, str) else ServedSpace(**stored)
        for scenario, stored in content.items()
    }


def write_space(home: Home, scenario: str, space: ServedSpace) -> None:
    """Store the space of a scenario's vectors; readers see the old content or the new."""
    content = {name: asdict(known) for name, known in {**read_spaces(home), scenario: space}.items()}
    write_atomically(home.fingerprints, json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_fingerprints(home: Home) -> dict[str, str]:
    """The fingerprint of each scenario that has vectors, by scenario."""
    return {scenario: space.fingerprint for scenario, space in read_spaces(home).items()}


def vector_widths(workspace: Workspace, home: Home) -> dict[str, int]:
    """Numbers of a vector in each scenario's view: of those that serve, or else as scenarios.yaml says.

    A new width in scenarios.yaml counts once vectors of that width serve.
    """
    served = read_spaces(home)
    return {
        name: served[name].width if name in served else spec.width or EMBEDDING_WIDTH
        for name, spec in workspace.scenarios.items()
    }
