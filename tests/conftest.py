"""For all tests: QANCHOR_TEST_THREADS native threads (pytest runs a process per core), no other settings.

The default is one.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings

# A slow machine is no fault of the code: what has to be fast is measured by benchmarks.
settings.register_profile("qanchor", deadline=None)
settings.load_profile("qanchor")

if "QANCHOR_KAFKA__BROKERS" in os.environ:  # the cluster for the streaming tests, and for them alone
    os.environ["QANCHOR_TEST_BROKERS"] = os.environ["QANCHOR_KAFKA__BROKERS"]
for _name in list(os.environ):
    if _name.startswith("QANCHOR_") and not _name.startswith("QANCHOR_TEST_"):
        del os.environ[_name]
os.environ["QANCHOR_COMPUTE__THREADS"] = os.environ.get("QANCHOR_TEST_THREADS", "1")
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = os.environ.get("QANCHOR_TEST_THREADS", "1")
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
_FIRST_STATES: dict[int, Any] = {}


@pytest.fixture(autouse=True)
def _subnormal_numbers() -> Iterator[None]:
    """A model flushes them to zero in its process; hypothesis draws them in the next test."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(autouse=True)
def _generators_of_the_module(request: pytest.FixtureRequest) -> None:
    """Tests run in any order; each finds its module's generators as if it were the first to draw."""
    import numpy as np  # after the number of its threads is set

    for value in vars(request.module).values():
        if isinstance(value, np.random.Generator):
            value.bit_generator.state = _FIRST_STATES.setdefault(id(value), value.bit_generator.state)


@pytest.fixture
def set_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Set the time zone of the process for one test."""

    def set_to(zone: str) -> None:
        patch.setenv("TZ", zone)
        time.tzset()

    with monkeypatch.context() as patch:
        yield set_to
    time.tzset()


@pytest.fixture
def utc_zone(set_zone: Callable[[str], None]) -> None:
    """A process in the zone UTC."""
    set_zone("UTC")
