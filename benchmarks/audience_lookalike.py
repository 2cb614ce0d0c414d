"""The lookalike search of `benchmarks.audience`: seeds, a filter in SQL, an audience of a twentieth."""

import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.audience_index import AS_OF, Stage
from benchmarks.harness import Bar
from qanchor.audience.candidates import CandidateRules
from qanchor.audience.features import OfflineFeatures
from qanchor.audience.lookalike import LookalikeRequest, find_lookalikes
from qanchor.audience.methods import Method
from qanchor.audience.population import Population
from qanchor.home import Home
from qanchor.names import ACTIVITY_VIEW, CREATED, EVENT_TIMESTAMP, USER_ID
from qanchor.site import Site
from qanchor.storage.parts import write_part
from qanchor.storage.vectors import load_index
from qanchor.times import TIMESTAMP
from qanchor.workspace import load_workspace

SEEDS, AUDIENCE, KEPT = 1_000, 50_000, 0.05
SECONDS, RECALL = 2.0, 0.98
_REPO = Path(__file__).resolve().parent.parent / "feature_repo"


def measure_lookalikes(stage: Stage) -> list[dict[str, Any]]:
    """Time and recall by method, from the request to the ranked table."""
    population, where = _population(stage)
    random = np.random.default_rng(5)
    # Seeds of one kind: the neighbourhood of a point, not all users.
    near = population.index.search(stage.query_vectors[:1], 20 * SEEDS)[1][0]
    seeds = population.index.user_ids(np.sort(random.choice(near, SEEDS, replace=False))).to_pylist()
    share = AUDIENCE * stage.users // 1_000_000
    rows = []
    methods: tuple[Method, ...] = ("centroid", "centroids", "nearest", "classifier")
    for k in (share // 5, share):
        for method in methods:
            rules = CandidateRules(where=where, include_seeds=True)
            began = time.perf_counter()
            lookalikes = find_lookalikes(population, LookalikeRequest(seeds, k, method, rules=rules))
            seconds = time.perf_counter() - began
            allowed = np.flatnonzero(lookalikes.candidates.allowed)
            scores = lookalikes.scorer.score(np.asarray(population.index.vectors(allowed)))
            best = allowed[np.argsort(-scores, kind="stable")[:k]]
            rows.append(
                {
                    "method": method,
                    "k": k,
                    "may be found": len(allowed),
                    "seconds": seconds,
                    "recall": float(np.isin(best, lookalikes.rows).mean()),
                }
            )
    return rows


def bars(rows: list[dict[str, Any]]) -> list[Bar]:
    """The bars of the largest audience."""
    largest = [row for row in rows if row["k"] == rows[-1]["k"]]
    slowest = max(largest, key=lambda row: row["seconds"])
    return [
        Bar(f"lookalike: seconds, {slowest['method']}", slowest["seconds"], SECONDS, "lower"),
        Bar("lookalike: recall against exact", min(row["recall"] for row in rows), RECALL, "higher"),
    ]


def _population(stage: Stage) -> tuple[Population, str]:
    """The users of the stage's index with one activity feature each, and a filter that keeps a twentieth."""
    index = load_index(stage.world_folder / "index")
    home, workspace = Home(stage.world_folder / "home"), load_workspace(_REPO)
    as_of = datetime.fromisoformat(AS_OF)
    name = next(iter(workspace.activity_columns))
    draws = np.random.default_rng(3).random(stage.users)
    moments = pa.repeat(pa.scalar(as_of - timedelta(hours=1), TIMESTAMP), stage.users)
    columns = {USER_ID: index.users, name: draws, EVENT_TIMESTAMP: moments, CREATED: moments}
    write_part(home.view(ACTIVITY_VIEW), pa.table(columns), "00000000")
    features = OfflineFeatures(Site.at(workspace, home), as_of)
    # A little more than a twentieth, so that the largest audience can be filled.
    return Population("money", index, features=features), f"{name} < {KEPT * 1.02}"
