"""A healthy head in service, made once, and a copy of it for each test."""

from pathlib import Path

import pytest

from tests.unit.monitoring.service import Service, copied, healthy_service


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """The original, which no test may change."""
    return healthy_service(tmp_path_factory.mktemp("healthy"))


@pytest.fixture
def service(healthy: Service, tmp_path: Path) -> Service:
    """A copy to be spoilt."""
    return copied(healthy, tmp_path)
