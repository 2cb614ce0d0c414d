"""Quality gates: what new vectors must pass before they replace those that serve.

The vectors of another embedding space cannot be compared number by number; what can be compared is who is
close to whom. So drift and score shift are judged within one space only, neighbours always.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from qanchor.registry.manifests import active_manifests
from qanchor.registry.tables import EmbeddingManifest
from qanchor.site import Site
from qanchor.storage.generations import CurrentVectors, current_vectors

_SAMPLE: Final = 2_000
_NEIGHBOURS: Final = 10
_NORM_TOLERANCE: Final = 1e-3
_FEWEST: Final = 100  # users in common; of fewer no statistic says anything

# (scenario, users, their vectors so far, their new ones) -> PSI of the scenario's head, None where it has
# none.
ScoreShift = Callable[[str, Sequence[str], NDArray[np.float32], NDArray[np.float32]], float | None]


@dataclass(frozen=True)
class GateResult:
    """One gate's judgement.

    Args:
        gate: name of the gate.
        value: measured value.
        limit: limit of the value.
        passed: whether the value is within its limit.
        at_least: whether the limit is a lower one.
    """

    gate: str
    value: float
    limit: float
    passed: bool
    at_least: bool

    def as_json(self) -> dict[str, Any]:
        """For the registry."""
        return asdict(self)

    def __str__(self) -> str:
        sign = "at least" if self.at_least else "at most"
        return f"{self.gate} is {self.value:.4g}, must be {sign} {self.limit:.4g}"


def recorded_gates(manifest: EmbeddingManifest) -> list[GateResult]:
    """The gates of a manifest when it was written; empty where it was not judged."""
    return [GateResult(**result) for result in (manifest.gates or {}).get("results", [])]


def describe_blocked(blocked: Mapping[str, Sequence[GateResult]]) -> str:
    """One clause per scenario, naming each gate and by how much it fails."""
    parts = [f"{name}: {', '.join(map(str, results))}" for name, results in blocked.items()]
    return "; ".join(parts)


def failed_gates(results: Sequence[GateResult]) -> list[GateResult]:
    """The gates that failed."""
    return [result for result in results if not result.passed]


def judge(
    site: Site, manifest: EmbeddingManifest, users: int, score_shift: ScoreShift | None = None
) -> list[GateResult]:
    """Compare a scenario's new vectors with its limits and with the vectors that serve, if any.

    Args:
        site: new vectors and those that serve.
        manifest: manifest of the new vectors.
        users: users that should have a current vector; 0 where there is no snapshot.
        score_shift: how far the scenario's head moves.
    """
    limits = site.workspace.scenario(manifest.scenario).gates
    new = current_vectors(site.home.root / manifest.path, manifest.scenario)
    results = [_at_most("bad vectors", bad_share(new.vectors), 0.0)]
    if users:
        results.append(_at_least("coverage", len(new) / users, limits.min_coverage))
    served = active_manifests(site.engine, [manifest.scenario]).get(manifest.scenario)
    comparable = served is not None and served.as_of is not None and manifest.as_of is not None
    if served is None or not comparable or not len(new) or served.id == manifest.id:
        return results
    old = current_vectors(site.home.root / served.path, manifest.scenario)
    old_rows, new_rows = _common(old, new)
    if manifest.as_of is not None and served.as_of is not None and manifest.as_of >= served.as_of:
        # A snapshot of an earlier moment has fewer users; that is no loss.
        results.append(_at_least("kept users", len(old_rows) / max(1, len(old)), limits.min_kept_users))
    if len(old_rows) >= _FEWEST:
        overlap = _neighbour_overlap(old.vectors[old_rows], new.vectors[new_rows])
        results.append(_at_least("neighbour overlap", overlap, limits.min_neighbour_overlap))
    if served.fingerprint == manifest.fingerprint and len(old_rows) >= _FEWEST:
        drift = centroid_drift(old.vectors[old_rows], new.vectors[new_rows])
        results.append(_at_most("centroid drift", drift, limits.max_centroid_drift))
        common = new.users.take(new_rows).to_pylist()
        shift = score_shift and score_shift(
            manifest.scenario, common, old.vectors[old_rows], new.vectors[new_rows]
        )
        if shift is not None:
            results.append(_at_most("score shift", shift, limits.max_score_shift))
    return results


def _at_least(gate: str, value: float, limit: float) -> GateResult:
    return GateResult(gate, float(value), limit, bool(value >= limit), at_least=True)


def _at_most(gate: str, value: float, limit: float) -> GateResult:
    return GateResult(gate, float(value), limit, bool(value <= limit), at_least=False)


def bad_share(vectors: NDArray[np.float32]) -> float:
    """Share of vectors, (users, dim), that are not finite or not of unit length."""
    if not len(vectors):
        return 0.0
    norms = np.linalg.norm(vectors, axis=1)
    return float(np.mean(~(np.abs(norms - 1.0) <= _NORM_TOLERANCE)))


def _common(old: CurrentVectors, new: CurrentVectors) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of a sample of the users that both have, the same sample each time."""
    position = pc.index_in(old.users, value_set=new.users)
    old_rows = np.flatnonzero(np.asarray(pc.is_valid(position)))
    new_rows = np.asarray(position.fill_null(-1)).astype(np.int64)[old_rows]
    return old_rows.astype(np.int64), new_rows


def _sampled(rows: int) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(0).permutation(rows)[:_SAMPLE]).astype(np.int64)


def centroid_drift(old: NDArray[np.float32], new: NDArray[np.float32]) -> float:
    """1 - cosine of the mean vectors of two sets, (users, dim) each."""
    before, after = old.mean(axis=0, dtype=np.float64), new.mean(axis=0, dtype=np.float64)
    return float(1.0 - before @ after / max(np.linalg.norm(before) * np.linalg.norm(after), 1e-12))


def _neighbour_overlap(old: NDArray[np.float32], new: NDArray[np.float32]) -> float:
    """Share of each sampled user's nearest neighbours, within the sample, that are the same in both."""
    rows = _sampled(len(old))
    kept = min(_NEIGHBOURS, len(rows) - 1)
    before, after = _nearest(old[rows], kept), _nearest(new[rows], kept)
    shared = (before[:, :, None] == after[:, None, :]).any(axis=2)
    return float(shared.mean())


def _nearest(vectors: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    products = vectors @ vectors.T
    np.fill_diagonal(products, -np.inf)
    return np.argpartition(-products, count - 1, axis=1)[:, :count]
