"""The gate that a head makes: how far its scores move between two sets of vectors."""

from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from qanchor.heads.score import score_shift
from qanchor.heads.train import train_head
from qanchor.progress import Silent
from qanchor.registry.manifests import active_manifest, note_manifest
from tests.unit.heads.fakes import FAST, SCENARIO, World, add_manifest, small_world


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = small_world(tmp_path)
    add_manifest(made)
    manifest = active_manifest(made.site.engine, SCENARIO)
    note_manifest(made.site.engine, manifest, as_of=datetime(2026, 3, 1))
    return made


def _vectors(world: World) -> np.ndarray:
    return np.array(world.source.columns["emb_risk"], np.float32)


def test_the_same_vectors_do_not_move_a_score_and_others_do(world: World) -> None:
    train_head(world.site, SCENARIO, FAST, Silent())
    shift, vectors = partial(score_shift, world.site), _vectors(world)
    assert shift(SCENARIO, world.source.users, vectors, vectors) == 0.0
    turned = -vectors
    moved = shift(SCENARIO, world.source.users, vectors, turned)
    little = shift(SCENARIO, world.source.users, vectors, vectors + np.float32(1e-3))
    assert moved is not None
    assert little is not None
    assert little < 0.1
    assert moved > 0.25


def test_without_a_head_there_is_no_shift(world: World) -> None:
    assert score_shift(world.site, SCENARIO, world.source.users, *[_vectors(world)] * 2) is None


def test_a_head_of_another_space_is_no_judge(world: World) -> None:
    train_head(world.site, SCENARIO, FAST, Silent())
    note_manifest(world.site.engine, active_manifest(world.site.engine, SCENARIO), fingerprint="e" * 32)
    assert score_shift(world.site, SCENARIO, world.source.users, *[_vectors(world)] * 2) is None


def test_a_head_that_was_edited_is_no_judge(world: World) -> None:
    train_head(world.site, SCENARIO, FAST, Silent())
    for card in world.site.home.heads.rglob("*.json"):
        card.write_text("{}")
    assert score_shift(world.site, SCENARIO, world.source.users, *[_vectors(world)] * 2) is None
