"""Lookalikes of known positives by a scenario's index, for the report."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qanchor.audience.index import open_scenario_index
from qanchor.audience.lookalike import LookalikeRequest, find_lookalikes
from qanchor.audience.population import Population
from qanchor.errors import InputError, StateError
from qanchor.heads.frame import PART
from qanchor.names import LABEL, USER_ID
from qanchor.site import Site

_SEEDS, _SHOWN = 50, 8


@dataclass(frozen=True)
class LookalikeSample:
    """The users nearest to known positives.

    Args:
        seeds: number of training users with label 1 that were searched with.
        taken: number of nearest users, a tenth of the index.
        labelled: number of them with a test label.
        rate: share of label 1 among these; None where there are none.
        base_rate: share of label 1 in the test part.
        best: rank, user_id, cosine and label (or None) of the nearest users.
    """

    seeds: int
    taken: int
    labelled: int
    rate: float | None
    base_rate: float
    best: tuple[dict[str, Any], ...]


def sample_lookalikes(site: Site, scenario: str, scores: pa.Table) -> LookalikeSample | None:
    """Search with up to 50 training users of label 1; None without an index that holds one of them.

    Args:
        site: home and registry.
        scenario: name of the scenario.
        scores: table with user_id, label and part of every labelled row.
    """
    test = scores.filter(pc.equal(scores[PART], "test"))
    train = scores.filter(pc.and_(pc.equal(scores[PART], "train"), pc.equal(scores[LABEL], 1)))
    seeds = list(dict.fromkeys(train[USER_ID].to_pylist()))[:_SEEDS]
    try:
        index = open_scenario_index(site, scenario).index
        taken = max(1, min(max(_SHOWN, index.size // 10), index.size - len(seeds)))
        request = LookalikeRequest(seeds, taken, "centroid")
        matches = find_lookalikes(Population(scenario, index), request).table
    except (StateError, InputError):
        # There is no index, or it holds none of the seeds.
        return None
    labels = dict(zip(test[USER_ID].to_pylist(), test[LABEL].to_pylist(), strict=True))
    known = [labels[user] for user in matches[USER_ID].to_pylist() if user in labels]
    best = tuple(
        {
            "rank": row["rank"],
            "user_id": row[USER_ID],
            "cosine": 1 - row["distance"],
            "label": labels.get(row[USER_ID]),
        }
        for row in matches.slice(0, _SHOWN).to_pylist()
    )
    rate = sum(known) / len(known) if known else None
    return LookalikeSample(
        len(seeds), matches.num_rows, len(known), rate, float(np.mean(list(labels.values()))), best
    )
