"""How far a head moves if new vectors take the place of those that serve: a gate of promotion."""

import logging
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qanchor.errors import CheckpointInvalid, NotReady
from qanchor.heads.score import LoadedHead, load_head
from qanchor.metrics import psi
from qanchor.names import AS_OF, USER_ID, embedding_field
from qanchor.registry.manifests import active_manifests
from qanchor.site import Site
from qanchor.times import TIMESTAMP, as_utc

log = logging.getLogger(__name__)

Vectors = NDArray[np.float32]
_MOST_USERS = 20_000


def score_shift(site: Site, scenario: str, users: Sequence[str], old: Vectors, new: Vectors) -> float | None:
    """How far a scenario's champion moves between two sets of vectors of one space.

    Activity and profile are those of the vectors in service, both times: what moves is due to the vectors
    alone.

    Args:
        site: feature repository, home, registry, workspace.
        scenario: name of the scenario.
        users: ids of the users.
        old: their vectors in service, float32 [users, width].
        new: their new vectors, float32 [users, width].

    Returns:
        PSI of the scores; None where no head can be read, or it reads no vectors of the space in service.
    """
    manifest = active_manifests(site.engine, [scenario]).get(scenario)
    if manifest is None or manifest.as_of is None:
        return None
    try:
        head = load_head(site, scenario)
    except (NotReady, CheckpointInvalid) as error:
        log.warning("no score shift scenario=%s reason=%s", scenario, error.problem)
        return None
    if not head.card.width or head.card.fingerprint != manifest.fingerprint:
        return None
    sample = list(users[:_MOST_USERS])
    times = pa.array([as_utc(manifest.as_of)] * len(sample), TIMESTAMP)
    rows = pa.table({USER_ID: pa.array(sample, pa.string()), AS_OF: times})
    table = site.features.training_frame(rows, list(head.card.spec.views(site.workspace)))
    before, after = (_scores(head, scenario, table, vectors[:_MOST_USERS]) for vectors in (old, new))
    return psi(before, after)


def _scores(head: LoadedHead, scenario: str, table: pa.Table, vectors: Vectors) -> NDArray[np.float64]:
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1), pa.float32())
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    name = embedding_field(scenario)
    return head.score(table.set_column(table.column_names.index(name), name, column))
