"""Other models in the quality benchmark: they see nothing from the cut-off on, and rows find their users."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.quality_cache import ResultCache
from benchmarks.quality_data import DataSet, load_data_set
from benchmarks.quality_peers import PEERS, PeerRun, peer_vectors

CUTOFF = pd.Timestamp("2011-09-09", tz="UTC")
USERS = [f"u{number}" for number in range(6)]


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    return load_data_set(_written(tmp_path / "online_retail", [CUTOFF] * len(USERS)))


def _written(folder: Path, cutoffs: list[pd.Timestamp]) -> Path:
    (folder / "labels").mkdir(parents=True)
    days = [-200, -3, 0, 4]
    events = pd.DataFrame(
        {
            "user_id": np.repeat(USERS[::-1], len(days)),
            "event_time": [CUTOFF + pd.Timedelta(days=day) for day in days] * len(USERS),
            "modality": "purchase",
            "description": "lamp",
            "country": "France",
            "invoice": "1",
            "quantity": 1,
            "unit_price": 2.5,
            "amount": 2.5,
        }
    )
    events["event_time"] = events["event_time"].astype("datetime64[us, UTC]")
    events.to_parquet(folder / "events.parquet")
    pd.DataFrame({"user_id": USERS, "orders": 1.0}).to_parquet(folder / "aggregates.parquet")
    labels = pd.DataFrame({"user_id": USERS, "as_of": cutoffs, "label": 0, "fold": 0})
    labels["as_of"] = labels["as_of"].astype("datetime64[us, UTC]")
    labels.to_parquet(folder / "labels" / "mkt_repurchase30.parquet")
    return folder


def test_a_peer_sees_events_before_the_cutoff_alone_and_its_vectors_go_to_their_users(
    data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[pd.DataFrame] = []

    def child(command: list[str], **_: object) -> None:
        folder, out = Path(command[2]), Path(command[3])
        seen.append(pd.read_parquet(folder / "events.parquet"))
        spec = json.loads((folder / "spec.json").read_text())
        assert (spec["texts"], spec["epochs"]) == (["description", "country"], 30)
        users = sorted(seen[0]["user_id"].unique(), reverse=True)
        vectors = [[float(user[1:]), 0.0] for user in users]
        table = pa.table({"user_id": users, "embedding": vectors})
        pq.write_table(table.replace_schema_metadata({"seconds": "1.5"}), out)

    monkeypatch.setattr("benchmarks.quality_peers._environment", lambda peer, folder: Path("python"))
    monkeypatch.setattr("benchmarks.quality_peers.subprocess.run", child)
    for _ in range(2):
        found = peer_vectors(
            data, PEERS["coles"], PeerRun(tmp_path, tmp_path / "environments", 1), ResultCache(tmp_path)
        )
    assert len(seen) == 1
    assert seen[0]["event_time"].max() < CUTOFF.value // 1_000
    assert len(seen[0]) == 2 * len(USERS)
    assert seen[0]["user_id"].is_monotonic_increasing
    assert found.by_task["mkt_repurchase30"][:, 0].tolist() == [float(user[1:]) for user in USERS]
    assert found.seconds == 1.5


def test_tasks_with_several_cutoffs_are_refused(tmp_path: Path) -> None:
    cutoffs = [CUTOFF] * 5 + [CUTOFF + pd.Timedelta(days=1)]
    data = load_data_set(_written(tmp_path / "online_retail", cutoffs))
    with pytest.raises(ValueError, match="several cut-offs"):
        peer_vectors(data, PEERS["coles"], PeerRun(tmp_path, tmp_path, 1), ResultCache(tmp_path / "cache"))
