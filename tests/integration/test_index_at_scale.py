"""An index of more users than are scanned: from the registry, in another process, and after an update."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from qanchor.audience.index import build_scenario_index, open_scenario_index, update_scenario_index
from qanchor.errors import IndexInvalid
from qanchor.registry.manifests import begin_manifest, note_manifest, part_name
from qanchor.site import Site
from qanchor.storage.parts import embedding_schema, write_part
from tests.unit.embedding.world import site_with_model
from tests.unit.registry.rows import activate_manifest, manifest

pytestmark = pytest.mark.integration

USERS, WIDTH = 52_000, 128
_OTHER_PROCESS = """
import json, sys
import numpy as np
from pathlib import Path
from qanchor.storage.vectors import load_index
index = load_index(Path(sys.argv[1]), "f1")
rows = index.search(index.vectors(np.arange(3)), 5)[1]
print(json.dumps({"rows": rows.tolist(), "users": index.user_ids(rows[0]).to_pylist()}))
"""


def _vectors() -> NDArray[np.float32]:
    random = np.random.default_rng(0)
    centres = random.normal(size=(300, WIDTH))
    values = centres[random.integers(0, 300, USERS)] + 0.7 * random.normal(size=(USERS, WIDTH))
    unit: NDArray[np.float32] = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _embed(site: Site, vectors: NDArray[np.float32]) -> None:
    row = begin_manifest(site.engine, manifest())
    users, moment = len(vectors), datetime(2026, 1, 1, tzinfo=UTC)
    offsets = pa.array(np.arange(0, users * WIDTH + 1, WIDTH, dtype=np.int32))
    table = pa.table(
        {
            "user_id": [f"user{number:06d}" for number in range(users)],
            "emb_money": pa.ListArray.from_arrays(offsets, vectors.reshape(-1)),
            "model_version": ["m1"] * users,
            "n_events": [1] * users,
            **{name: [moment] * users for name in ("last_event_ts", "event_timestamp", "created")},
        }
    ).cast(embedding_schema("money"))
    folder = site.home.generation("user_emb_money", row.id)
    write_part(folder, table, part_name(row.id, 0))
    note_manifest(site.engine, row, path=str(folder.relative_to(site.home.root)))
    activate_manifest(site.engine, row, users, "hash")


def test_a_large_index_is_fast_measured_mapped_and_kept_up_to_date(tmp_path: Path) -> None:
    site = site_with_model(tmp_path)
    vectors = _vectors()
    _embed(site, vectors)

    row = build_scenario_index(site, "money")
    served = open_scenario_index(site, "money").index
    assert row.kind in ("ivf", "codes")
    assert row.recall is not None
    assert row.recall >= 0.98
    assert served.metadata.queries == 200
    # Queries drawn like the users, none of whom the tuning saw.
    random = np.random.default_rng(9)
    queries = vectors[random.integers(0, USERS, 100)] + 0.04 * random.normal(size=(100, WIDTH))
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    true = np.argsort(-(queries @ vectors.T), axis=1)[:, :100]
    found = np.concatenate([served.search(query[None], 100)[1] for query in queries])
    assert np.mean([np.isin(a, b).mean() for a, b in zip(true, found, strict=True)]) >= 0.96

    command = [sys.executable, "-c", _OTHER_PROCESS, str(site.home.root / row.path)]
    said = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=True).stdout
    assert json.loads(said)["users"][0] == "user000000"
    assert [rows[0] for rows in json.loads(said)["rows"]] == [0, 1, 2]

    changed = vectors.copy()
    changed[:50] = vectors[50:100][::-1]
    _embed(site, changed)
    update = update_scenario_index(site, "money")
    assert (update.changed, update.removed, update.rebuilt) == (50, 0, False)
    now = open_scenario_index(site, "money").index
    assert now.population == USERS
    # The user who took another's vector is found where that one is.
    twins = now.search(changed[:1], 2)[1][0]
    assert sorted(now.user_ids(twins).to_pylist()) == ["user000000", "user000099"]

    path = site.home.root / update.row.path / "00000" / "index.faiss"
    short = path.read_bytes()[:-1_000]
    path.unlink()
    path.write_bytes(short)
    with pytest.raises(IndexInvalid, match="a file was cut off"):
        open_scenario_index(site, "money")
    # Whoever had mapped the whole file goes on with it.
    assert served.search(vectors[:1], 1)[1][0, 0] == 0
