"""Spark's way to compute shards, with plain pandas in place of Spark."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from qanchor.embedding.backfill import backfill
from qanchor.embedding.plan import BackfillRequest
from qanchor.embedding.remote import RemoteWorker, WorkerOrder
from qanchor.embedding.spark import SCHEMA, SparkEngine, work_in_pandas
from qanchor.embedding.worker import LoadEmbedder
from qanchor.progress import Silent
from qanchor.settings import Settings
from tests.unit.embedding.world import HashEmbedder, make_world

Work = Callable[[Iterator[pd.DataFrame]], Iterator[pd.DataFrame]]


class HashWorker(RemoteWorker):
    """A worker whose model is the hash of what is read."""

    def loader(self, settings: Settings) -> LoadEmbedder:
        """Gives it."""
        from qanchor.workspace import load_workspace

        embedder = HashEmbedder(load_workspace(settings.repo_path))
        return lambda spaces: (embedder, [space.fingerprint for space in spaces])


class PandasSession:
    """As much of a SparkSession as is used: partitions, one after the other."""

    def __init__(self) -> None:
        self.schema, self._frames, self._work = "", [pd.DataFrame()], iter

    def range(self, start: int, end: int, step: int, partitions: int) -> "PandasSession":
        """Numbers, and an empty partition as Spark may make one."""
        assert len(range(start, end, step)) == partitions
        self._frames = [pd.DataFrame({"id": [number]}) for number in range(start, end, step)]
        self._frames.append(pd.DataFrame({"id": []}))
        return self

    def mapInPandas(self, work: Work, schema: str) -> "PandasSession":  # noqa: N802  # Spark's name
        """Keep what is to be done."""
        self.schema, self._found = schema, [work(iter([frame])) for frame in self._frames]
        return self

    def collect(self) -> list[dict[str, Any]]:
        """Do it."""
        return [row for found in self._found for frame in found for row in frame.to_dict("records")]


def test_tasks_of_spark_make_the_vectors_of_one_process(tmp_path: Path) -> None:
    world, alone = make_world(tmp_path / "spark"), make_world(tmp_path / "alone")
    session = PandasSession()
    engine = SparkEngine(
        session, Settings(home=world.home.root, repo=world.workspace.repo), workers=2, worker=HashWorker
    )
    result = backfill(BackfillRequest(("money", "takeout"), shard_users=1), world.site, engine, Silent())
    expected = alone.backfill("money", "takeout", shard_users=1)
    assert {name: m.content_hash for name, m in result.manifests.items()} == {
        name: m.content_hash for name, m in expected.manifests.items()
    }
    assert (result.embedded, session.schema) == (expected.embedded, SCHEMA)


def test_a_task_without_rows_does_nothing() -> None:
    order = WorkerOrder(Settings(), 1, "nowhere", [], "t", 1)
    assert list(work_in_pandas(order)(iter([pd.DataFrame({"id": []})]))) == []
