"""What a scenario's index finds for known positives, for the report."""

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
    """What the index finds for known positives.

    Args:
        seeds: users with label 1 in the training part that were searched with.
        taken: users taken, a tenth of the index.
        labelled: how many of them have a test label.
        rate: share of label 1 among those; None where there are none.
        base_rate: share of label 1 in the test part.
        best: rank, user_id, cosine, and label or None.
    """

    seeds: int
    taken: int
    labelled: int
    rate: float | None
    base_rate: float
    best: tuple[dict[str, Any], ...]


def sample_lookalikes(site: Site, scenario: str, scores: pa.Table) -> LookalikeSample | None:
    """Search with up to 50 training users of label 1; None without an index that knows them.

    Args:
        site: home and registry.
        scenario: whose index.
        scores: user_id, label and part of every labelled row.
    """
    test = scores.filter(pc.equal(scores[PART], "test"))
    train = scores.filter(pc.and_(pc.equal(scores[PART], "train"), pc.equal(scores[LABEL], 1)))
    seeds = list(dict.fromkeys(train[USER_ID].to_pylist()))[:_SEEDS]
    try:
        index = open_scenario_index(site, scenario).index
        taken = max(1, min(max(_SHOWN, index.size // 10), index.size - len(seeds)))
        request = LookalikeRequest(seeds, taken, "centroid")
        found = find_lookalikes(Population(scenario, index), request).table
    except (StateError, InputError):
        # No index yet, or one that knows none of the seeds: the page does without.
        return None
    labels = dict(zip(test[USER_ID].to_pylist(), test[LABEL].to_pylist(), strict=True))
    known = [labels[user] for user in found[USER_ID].to_pylist() if user in labels]
    best = tuple(
        {
            "rank": row["rank"],
            "user_id": row[USER_ID],
            "cosine": 1 - row["distance"],
            "label": labels.get(row[USER_ID]),
        }
        for row in found.slice(0, _SHOWN).to_pylist()
    )
    rate = sum(known) / len(known) if known else None
    return LookalikeSample(
        len(seeds), found.num_rows, len(known), rate, float(np.mean(list(labels.values()))), best
    )
