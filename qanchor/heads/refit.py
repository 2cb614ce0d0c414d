"""A head fitted again on its stored frame, and compared with the stored head."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from qanchor.heads.baselines import fit_task
from qanchor.heads.card import libraries, read_scores, read_stored_frame, text_hash
from qanchor.heads.fit import refit_head
from qanchor.heads.score import load_head
from qanchor.names import AS_OF, USER_ID
from qanchor.site import Site


@dataclass(frozen=True)
class Refit:
    """A second fit compared with the stored head.

    Args:
        scenario: name of the scenario.
        version: version of the head.
        rows: number of rows of the frame.
        same_trees: whether every booster's text equals the stored one.
        same_calibration: whether the calibration equals the stored one.
        largest_difference: largest difference in probability over the rows of the frame.
        changed_libraries: both versions of each library that has changed since.
    """

    scenario: str
    version: str
    rows: int
    same_trees: bool
    same_calibration: bool
    largest_difference: float
    changed_libraries: dict[str, str]

    @property
    def exact(self) -> bool:
        """Whether the two heads are the same."""
        return self.same_trees and self.same_calibration and self.largest_difference == 0


def refit(site: Site, scenario: str, version: str | None = None) -> Refit:
    """Fit a head of `load_head` again, on its own frame with its own parameters; nothing is stored.

    Raises:
        CheckpointInvalid: the frame or another file was edited; train the head again.
    """
    head = load_head(site, scenario, version)
    card = head.card
    frame = read_stored_frame(head.folder, card)
    again = refit_head(fit_task(frame, card.spec), card.options, card.parameters)
    stored = read_scores(head.folder, card)
    rows = {key: row for row, key in enumerate(_keys(stored))}
    order = np.array([rows[key] for key in _keys(frame.table)])
    difference = np.abs(again.predict(card.spec.matrix(frame.table)) - stored["head"].to_numpy()[order])
    current = libraries()
    return Refit(
        scenario=scenario,
        version=card.version,
        rows=frame.table.num_rows,
        same_trees=tuple(text_hash(text) for text in again.boosters.texts) == card.booster_hashes,
        same_calibration=again.calibration == card.calibration,
        largest_difference=float(difference.max()),
        changed_libraries={
            name: f"{then} -> {current.get(name)}"
            for name, then in card.libraries.items()
            if current.get(name) != then
        },
    )


def _keys(table: pa.Table) -> list[tuple[str, object]]:
    return list(zip(table[USER_ID].to_pylist(), table[AS_OF].to_pylist(), strict=True))
