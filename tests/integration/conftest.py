"""Shared by integration tests: a feature repository that Feast has applied, once for each module."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qanchor.home import Home
from qanchor.workspace import FieldSpec, ModalitySpec, ScenarioSpec, Workspace

if TYPE_CHECKING:
    from qanchor.storage.features import FeatureRepository


def small_workspace() -> Workspace:
    """Two modalities, three scenarios of two domains; a repository without files."""
    pay = ModalitySpec(
        text="{shop}", fields={"shop": FieldSpec(type="text"), "paid": FieldSpec(type="number", amount=True)}
    )
    card = ModalitySpec(
        text="{tier}",
        profile=True,
        fields={"tier": FieldSpec(type="text"), "limit": FieldSpec(type="number")},
    )
    scenarios = {
        "fraud": ScenarioSpec(domain="risk", query="Is it fraud?", ttl_days=2),
        "money": ScenarioSpec(domain="risk", query="Is money late?", ttl_days=30),
        "promo": ScenarioSpec(domain="marketing", query="Will a coupon be used?", ttl_days=30),
    }
    return Workspace(Path("/nowhere"), 90, {"pay": pay, "card": card}, scenarios)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[FeatureRepository]":
    """The small workspace's feature repository, applied."""
    from qanchor.storage.features import FeatureRepository

    repository = FeatureRepository(small_workspace(), Home(tmp_path_factory.mktemp("home")))
    repository.apply()
    yield repository
    repository.close()
