"""Drift of scores and vectors in service from the champion's test scores and training vectors."""

from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qanchor.embedding.gates import bad_share, centroid_drift
from qanchor.metrics import psi
from qanchor.monitoring.checks import Check, Floats, at_most, psi_by_chance, unknown
from qanchor.monitoring.outcomes import HEAD, SCORE
from qanchor.names import EVENT_TIMESTAMP
from qanchor.times import column_microseconds
from qanchor.workspace import MonitorSpec

Vectors = NDArray[np.float32]
FEWEST: Final = 100  # rows below which distributions are not compared
_MOST_USERS: Final = 20_000
_RUNS: Final = 12


def score_drift(reference: Floats, current: Floats, limits: MonitorSpec) -> Check:
    """PSI of the scores in service.

    Args:
        reference: the champion's scores of its test rows, (rows,).
        current: newest published score of every user, (users,).
        limits: limits of the scenario.
    """
    name = "score_psi"
    if not len(current):
        return unknown(name, "the champion has published no score")
    if min(len(reference), len(current)) < FEWEST:
        return unknown(name, f"{len(current):,} scores against {len(reference):,}: fewer than {FEWEST}")
    chance = psi_by_chance(len(reference), len(current))
    note = f"{len(current):,} users against {len(reference):,} test rows"
    return at_most(name, psi(reference, current), limits.max_score_psi, note, chance)


def score_runs(scores: pa.Table, reference: Floats) -> list[dict[str, object]]:
    """The last scoring runs: rows, mean and PSI of each day of features and head, the latest last.

    Args:
        scores: published scores.
        reference: the champion's scores of its test rows, (rows,).
    """
    days = column_microseconds(scores[EVENT_TIMESTAMP]).astype("datetime64[us]").astype("datetime64[D]")
    heads = np.array(scores[HEAD].fill_null("").to_pylist(), dtype=object)
    values = scores[SCORE].to_numpy()
    rows = []
    for day, head in sorted(set(zip(days.tolist(), heads.tolist(), strict=True)))[-_RUNS:]:
        some = values[(days == np.datetime64(day)) & (heads == head)]
        drift = psi(reference, some) if min(len(reference), len(some)) >= FEWEST else None
        run = {"day": day.isoformat(), "head": head, "rows": len(some)}
        rows.append({**run, "mean": float(some.mean()), "psi": drift})
    return rows


def vector_drift(reference: Vectors, current: Vectors, limits: MonitorSpec) -> list[Check]:
    """Checks of the vectors in service, which share the champion's embedding space.

    Args:
        reference: vectors of the champion's training rows, (rows, dim).
        current: vectors in service, (users, dim).
        limits: limits of the scenario.
    """
    bad = at_most("bad_vectors", bad_share(current), 0.0, "share that is not finite or not of length 1")
    if min(len(reference), len(current)) < FEWEST:
        reason = f"{len(current):,} vectors against {len(reference):,}: fewer than {FEWEST}"
        return [bad, unknown("embedding_psi", reason), unknown("centroid_drift", reason)]
    before, now = _sampled(reference), _sampled(current[np.isfinite(current).all(axis=1)])
    drifts = component_psi(before, now)
    worst = int(drifts.argmax())
    note = f"mean over {len(drifts)} components; the largest, {drifts[worst]:.3g}, is component {worst}"
    chance = psi_by_chance(len(before), len(now))
    return [
        bad,
        at_most("embedding_psi", float(drifts.mean()), limits.max_embedding_psi, note, chance),
        at_most("centroid_drift", centroid_drift(before, now), limits.max_centroid_drift),
    ]


def component_psi(reference: Vectors, current: Vectors) -> Floats:
    """PSI of each component, (dim,)."""
    return np.array([psi(before, now) for before, now in zip(reference.T, current.T, strict=True)])


def _sampled(vectors: Vectors) -> Vectors:
    if len(vectors) <= _MOST_USERS:
        return vectors
    return vectors[np.sort(np.random.default_rng(0).permutation(len(vectors))[:_MOST_USERS])]
