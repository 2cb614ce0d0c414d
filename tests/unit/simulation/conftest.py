from dataclasses import replace

import pytest

from qanchor.simulation.config import WorldPlan
from qanchor.simulation.life import Life, live
from qanchor.simulation.world import Block, simulate_block

# A short span keeps each test fast; the process is the same.
SHORT = replace(
    WorldPlan(users=500, seed=3), days=100, train_days=(30, 40), valid_day=40, test_day=70, paths=4
)


@pytest.fixture(scope="session")
def plan() -> WorldPlan:
    return SHORT


@pytest.fixture(scope="session")
def life(plan: WorldPlan) -> Life:
    return live(plan, 0)


@pytest.fixture(scope="session")
def block(plan: WorldPlan) -> Block:
    return simulate_block(plan, 0)
