"""The head in service with what drift is measured from: its test scores and its training vectors."""

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from qanchor.errors import CheckpointInvalid, NotReady
from qanchor.heads.card import HeadCard, read_scores, read_stored_frame
from qanchor.heads.frame import PART
from qanchor.heads.score import load_head
from qanchor.heads.spec import column, vectors
from qanchor.monitoring.checks import Check, Floats, unknown
from qanchor.names import embedding_field
from qanchor.registry.tables import EmbeddingManifest
from qanchor.site import Site

_NAME = "head_serves"


@dataclass(frozen=True)
class Champion:
    """The head that scores a scenario.

    Args:
        card: what it is.
        test_scores: what it said of the rows that it was judged on, (rows,).
        vectors: that it was fitted on, (rows, dim); None where it reads none of those in service.
    """

    card: HeadCard
    test_scores: Floats
    vectors: NDArray[np.float32] | None


def load_champion(
    scenario: str, site: Site, manifest: EmbeddingManifest | None
) -> tuple[Champion | None, Check]:
    """The champion, where it is whole, and whether it can score the vectors that serve.

    Args:
        scenario: its name.
        site: home, registry, workspace.
        manifest: of the vectors that serve.
    """
    try:
        head = load_head(site, scenario)
        rows = read_scores(head.folder, head.card)
        frame = read_stored_frame(head.folder, head.card)
    except NotReady as error:
        return None, unknown(_NAME, error.problem)
    except CheckpointInvalid as error:
        return None, Check(_NAME, 0.0, 1.0, "alarm", at_least=True, note=error.problem)
    card, scores = head.card, rows.filter(pc.equal(rows[PART], "test"))["head"].to_numpy()
    if not card.width:
        return Champion(card, scores, None), _serves(card)
    if manifest is None or manifest.fingerprint != card.fingerprint:
        note = "the vectors in service are of another embedding space; train the head again"
        return Champion(card, scores, None), Check(_NAME, 0.0, 1.0, "alarm", at_least=True, note=note)
    found = vectors(column(frame.table_of("train"), embedding_field(scenario)), card.width)
    return Champion(card, scores, found[np.isfinite(found[:, 0])]), _serves(card)


def _serves(card: HeadCard) -> Check:
    return Check(_NAME, 1.0, 1.0, "ok", at_least=True, note=f"head {card.version}")
