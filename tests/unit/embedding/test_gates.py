"""Gates keep out what would harm, say by how much, and let the ordinary pass."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from qanchor.embedding.gates import GateResult, describe_blocked, failed_gates, judge, recorded_gates
from qanchor.embedding.pairs import VectorRows
from qanchor.embedding.publish import promote
from qanchor.names import embedding_view
from qanchor.progress import Silent
from qanchor.registry.manifests import CANDIDATE, begin_manifest, note_manifest
from qanchor.registry.tables import EmbeddingManifest
from tests.unit.embedding.world import World, make_world

_USERS = np.array([f"u{number:04d}" for number in range(300)], dtype=object)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _vectors(seed: int = 0, rows: int = 300) -> NDArray[np.float32]:
    """Clusters around a common centre, as real embeddings form."""
    random = np.random.default_rng(seed)
    return _unit(
        1.0 + random.normal(size=(12, 128))[np.arange(rows) % 12] + 0.3 * random.normal(size=(rows, 128))
    )


def _candidate(
    world: World,
    vectors: NDArray[np.float32],
    day_of_january: int = 9,
    fingerprint: str = "f1",
    **changes: Any,
) -> EmbeddingManifest:
    moment = datetime(2026, 1, day_of_january)
    row = EmbeddingManifest(
        scenario="money", model_version="m1", fingerprint=fingerprint, as_of=moment, rows=len(vectors),
        content_hash="", path="",
    )  # fmt: skip
    manifest = begin_manifest(world.engine, row)
    folder = world.home.generation(embedding_view("money"), manifest.id)
    folder.mkdir(parents=True)
    count = len(vectors)
    cutoffs = np.full(count, int((moment - datetime(1970, 1, 1)).total_seconds() * 1e6))
    rows = VectorRows(_USERS[:count], cutoffs, vectors, np.ones(count, np.int64), cutoffs - 1)
    pq.write_table(rows.table("money", "m1"), folder / "00000001-00000.parquet")
    note_manifest(world.engine, manifest, state=CANDIDATE, path=str(folder.relative_to(world.home.root)))
    return manifest


def _serving(world: World, vectors: NDArray[np.float32]) -> None:
    promote(world.site, {"money": _candidate(world, vectors, 5)}, Silent())


def _failed(world: World, manifest: EmbeddingManifest, users: int = 300, **options: Any) -> list[str]:
    return [result.gate for result in failed_gates(judge(world.site, manifest, users, **options))]


def test_vectors_that_moved_a_little_pass_every_gate(world: World) -> None:
    old = _vectors()
    _serving(world, old)
    new = _unit(old + 0.02 * np.random.default_rng(1).normal(size=old.shape))
    results = judge(world.site, _candidate(world, new), 300, lambda *_: 0.01)
    assert [result.gate for result in results] == [
        "bad vectors", "coverage", "kept users", "neighbour overlap", "centroid drift", "score shift",
    ]  # fmt: skip
    assert failed_gates(results) == []


def test_the_first_vectors_are_judged_by_themselves(world: World) -> None:
    assert _failed(world, _candidate(world, _vectors())) == []


@pytest.mark.parametrize("spoiled", [2.0, 0.0])
def test_a_vector_that_is_not_of_unit_length_blocks(world: World, spoiled: float) -> None:
    vectors = _vectors()
    vectors[7] *= spoiled
    assert _failed(world, _candidate(world, vectors)) == ["bad vectors"]


def test_missing_users_block(world: World) -> None:
    assert _failed(world, _candidate(world, _vectors(rows=290))) == ["coverage"]
    _serving(world, _vectors())
    assert _failed(world, _candidate(world, _vectors(rows=250)), users=250) == ["kept users"]


def test_an_earlier_snapshot_may_have_fewer_users(world: World) -> None:
    _serving(world, _vectors())
    assert _failed(world, _candidate(world, _vectors(rows=200), 3), users=200) == []


def test_a_turned_space_blocks_by_drift_and_other_neighbours_by_overlap(world: World) -> None:
    _serving(world, _vectors())
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(128, 128)))[0]
    assert _failed(world, _candidate(world, _unit(_vectors() @ turn))) == ["centroid drift"]
    shuffled = _vectors()[np.random.default_rng(6).permutation(300)]
    assert _failed(world, _candidate(world, shuffled)) == ["neighbour overlap"]


def test_another_space_is_judged_by_its_neighbours_alone(world: World) -> None:
    _serving(world, _vectors())
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(128, 128)))[0]
    manifest = _candidate(world, _unit(_vectors() @ turn), fingerprint="f2")
    assert _failed(world, manifest, score_shift=lambda *_: 9.0) == []


def test_a_shift_of_the_heads_scores_blocks_and_says_by_how_much(world: World) -> None:
    _serving(world, _vectors())
    results = judge(world.site, _candidate(world, _vectors()), 300, lambda *_: 0.4)
    assert describe_blocked({"money": failed_gates(results)}) == (
        "money: score shift is 0.4, must be at most 0.25"
    )


def test_a_head_that_is_not_there_is_no_gate(world: World) -> None:
    _serving(world, _vectors())
    assert _failed(world, _candidate(world, _vectors()), score_shift=lambda *_: None) == []


def test_a_judgement_survives_the_registry(world: World) -> None:
    manifest = _candidate(world, _vectors())
    result = GateResult("coverage", 0.5, 0.99, passed=False, at_least=True)
    note_manifest(world.engine, manifest, gates={"results": [result.as_json()]})
    assert recorded_gates(manifest) == [result]
    assert str(result) == "coverage is 0.5, must be at least 0.99"
