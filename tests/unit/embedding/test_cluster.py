"""The room of a Ray cluster and the orders of its workers; no Ray is needed here."""

import pickle
from pathlib import Path

import pytest

from qanchor.embedding.cluster import ClusterOptions, require_ray, room_for
from qanchor.embedding.remote import RemoteWorker, WorkerOrder
from qanchor.embedding.spaces import active_spaces
from qanchor.errors import InputError, NotReady, QAnchorError, UnknownScenario
from qanchor.settings import Settings
from tests.unit.embedding.world import make_world

_SHARED = "postgresql+psycopg://db/qanchor"


@pytest.mark.parametrize(
    ("options", "nodes", "room"),
    [
        (ClusterOptions(), [{"CPU": 2.0}], 2),
        (ClusterOptions(cpus=3), [{"CPU": 4.0}, {"CPU": 4.0}], 2),
        (ClusterOptions(cpus=2, gpus=0.5), [{"CPU": 64.0, "GPU": 1.0}, {"CPU": 64.0}], 2),
        (ClusterOptions(gpus=1.0), [{"CPU": 1.0, "GPU": 8.0}], 1),
    ],
)
def test_room_is_what_every_node_holds_by_itself(
    options: ClusterOptions, nodes: list[dict[str, float]], room: int
) -> None:
    assert room_for(options, nodes, _SHARED) == room


def test_a_cluster_without_room_is_refused_in_place_of_waiting_for_ever() -> None:
    with pytest.raises(InputError, match="room for 0 workers of 1 CPUs and 1 GPUs each"):
        room_for(ClusterOptions(gpus=1.0), [{"CPU": 8.0}], _SHARED)
    with pytest.raises(InputError, match=r"room for 3 workers .* not for 4"):
        room_for(ClusterOptions(workers=4), [{"CPU": 3.0}], _SHARED)


def test_nodes_of_a_cluster_do_not_share_a_sqlite_file() -> None:
    assert room_for(ClusterOptions(), [{"CPU": 2.0}], "sqlite:////home/q.db") == 2
    with pytest.raises(NotReady, match="SQLite file, and the Ray cluster has 2 nodes"):
        room_for(ClusterOptions(), [{"CPU": 2.0}, {"CPU": 2.0}], "sqlite:////home/q.db")


def _order(folder: Path) -> WorkerOrder:
    world = make_world(folder)
    settings = Settings(home=world.home.root, repo=world.workspace.repo)
    return WorkerOrder(settings, 1, "elsewhere", active_spaces(world.site, ["money"]), "t", 1)


def test_an_order_arrives_in_another_process_as_it_was_given(tmp_path: Path) -> None:
    order = _order(tmp_path)
    received: WorkerOrder = pickle.loads(pickle.dumps(order))
    assert received.settings == order.settings
    assert [(s.fingerprint, s.model.version) for s in received.spaces] == [
        (order.spaces[0].fingerprint, "m1")
    ]


@pytest.mark.parametrize("error", [NotReady("no model", "Train one."), UnknownScenario("x", ["y"])])
def test_an_error_arrives_from_another_process_as_it_was_raised(error: QAnchorError) -> None:
    received = pickle.loads(pickle.dumps(error))
    assert (type(received), str(received), received.remedy) == (type(error), str(error), error.remedy)
    assert vars(received) == vars(error)


def test_a_node_that_does_not_see_the_home_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match=r"does not see the backfill.s plan"):
        RemoteWorker(_order(tmp_path)).work()


def test_ray_that_is_missing_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(NotReady, match=r"ray is not installed. Run `pip install .qanchor\[ray\]"):
        require_ray()
