"""On real data too the report's figures are those of scikit-learn."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

import benchmarks
from benchmarks.quality_data import DATA_SETS
from benchmarks.report_figures import check_report
from qanchor.events.activity import activity_table, profile_table
from qanchor.events.labels import LabelLoader
from qanchor.heads.train import train_head
from qanchor.home import Home
from qanchor.names import AS_OF, EVENT_ID, USER_ID, embedding_field, embedding_view
from qanchor.progress import Silent
from qanchor.registry.session import open_engine
from qanchor.registry.tables import Base
from qanchor.report.files import write_report
from qanchor.report.summary import summarise
from qanchor.site import Site
from qanchor.storage.features import FeatureRepository
from qanchor.workspace import Workspace, load_workspace
from tests.unit.explain.test_edited_log import Log
from tests.unit.heads.fakes import FAST, WIDTH, FakeSource, World, add_manifest

pytestmark = pytest.mark.integration

_PROJECT = Path(benchmarks.__file__).parents[1]
_DATA = _PROJECT.parent / "shared" / "benchmarks"
_MOST_USERS = 2_500


@dataclass
class RealFeatures:
    """Aggregates and profile of real users by the project's own queries; vectors that any model could give.

    Args:
        table: user_id, then features, one row a user.
        scenario: its vectors are a random projection of the aggregates.
    """

    table: pa.Table
    scenario: str

    def training_frame(self, labels: pa.Table, views: Sequence[str], times: bool = False) -> pa.Table:
        rows = pc.index_in(labels[USER_ID], self.table[USER_ID].combine_chunks())
        features = self.table.take(rows)
        for name in features.column_names[1:]:
            labels = labels.append_column(name, features[name])
        return labels

    def online(
        self, user_ids: Sequence[str], features: Sequence[str], at: datetime | None = None
    ) -> pa.Table:
        raise NotImplementedError

    def fingerprint(self, scenario: str) -> str | None:
        return "f" * 32


def _features(workspace: Workspace, events: pa.Table, labels: pa.Table, scenario: str) -> pa.Table:
    log = Log(events.filter(pc.is_in(events[USER_ID], labels[USER_ID].combine_chunks())))
    requests = labels.select([USER_ID, AS_OF])
    table = activity_table(log, workspace, requests)
    profile = profile_table(log, workspace, requests)
    for name in workspace.profile_columns:
        table = table.append_column(name, profile[name])
    vectors = _vectors(np.stack([table[name].to_numpy() for name in workspace.activity_columns], axis=1))
    table = table.select([USER_ID, *workspace.activity_columns, *workspace.profile_columns])
    table = table.append_column(
        embedding_field(scenario), pa.FixedSizeListArray.from_arrays(vectors.ravel(), WIDTH)
    )
    versions = pa.array(["m1"] * table.num_rows)
    return table.append_column(f"{embedding_view(scenario)}__model_version", versions)


def _vectors(activity: NDArray[np.float64]) -> NDArray[np.float32]:
    known = np.sign(activity) * np.log1p(np.abs(np.nan_to_num(activity)))
    known = np.nan_to_num((known - known.mean(axis=0)) / np.maximum(known.std(axis=0), 1e-9))
    flat = known @ np.random.default_rng(5).normal(size=(known.shape[1], WIDTH)) + 1e-3
    return np.asarray(flat / np.linalg.norm(flat, axis=1, keepdims=True), dtype=np.float32)


@pytest.mark.skipif(not _DATA.is_dir(), reason="the real data sets are not beside the project")
@pytest.mark.parametrize("name", DATA_SETS)
def test_every_figure_on_real_data_equals_an_independent_computation(name: str, tmp_path: Path) -> None:
    workspace, home = load_workspace(_PROJECT / "examples" / name), Home(tmp_path / "home")
    events = pq.read_table(_DATA / name / "events.parquet")
    if EVENT_ID not in events.column_names:
        events = events.append_column(EVENT_ID, pa.array([str(row) for row in range(events.num_rows)]))
    engine = open_engine(f"sqlite:///{home.root / 'qanchor.db'}")
    Base.metadata.create_all(engine)
    scenario = next(iter(workspace.scenarios))
    labels = pq.read_table(_DATA / name / "labels" / f"{scenario}.parquet").slice(0, _MOST_USERS)
    pq.write_table(labels, tmp_path / "labels.parquet")
    LabelLoader(home, engine, workspace).load(tmp_path / "labels.parquet", scenario)
    source = RealFeatures(_features(workspace, events, labels, scenario), scenario)
    site = Site.at(workspace, home, engine, cast(FeatureRepository, source))
    world = World(site, FakeSource({}, []), np.asarray(labels["label"], dtype=np.int64))
    add_manifest(world, scenario=scenario)
    train_head(site, scenario, FAST, Silent())

    page = tmp_path / "out" / "report.html"
    write_report(summarise(site, [scenario], Silent()), page)
    differences = check_report(page.with_name("report.json"), home.root)[scenario]

    assert len(differences) > 80
    assert {name: value for name, value in differences.items() if not value <= 1e-9} == {}
