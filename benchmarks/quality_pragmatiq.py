"""pragmatiq on a folder's events: run by an interpreter that has it, never imported.

    python quality_pragmatiq.py FOLDER OUT

FOLDER has events.parquet, by user and time, and spec.json; OUT is the output, a Parquet file of user_id and
embedding, with the seconds of training in its metadata.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from pragmatiq import api

_MAP = pa.map_(pa.string(), pa.string())
_LIFELONG = pa.list_(pa.struct([("key", pa.string()), ("ts", pa.timestamp("us"))]))
# pragmatiq's setting for a small run on a CPU.
_TOKEN_BUDGET = 8_192


def main() -> None:
    """Convert the events, train, embed, write."""
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    spec = json.loads((folder / "spec.json").read_text())
    if spec["threads"]:
        torch.set_num_threads(spec["threads"])
    events = pq.read_table(folder / "events.parquet")
    raw = folder / "raw"
    raw.mkdir()
    is_profile = pc.is_in(events["modality"], value_set=pa.array(spec["profiles"], pa.string()))
    pq.write_table(_events(events.filter(pc.invert(is_profile)), spec), raw / "events.parquet")
    pq.write_table(_profiles(events, events.filter(is_profile), spec), raw / "profiles.parquet")
    began = time.monotonic()
    api.tokenize(raw, folder / "tokens")
    settings = {
        "max_steps": spec["steps"],
        "warmup_steps": spec["steps"] // 10,
        "token_budget": _TOKEN_BUDGET,
        "devices": 1,
        "accelerator": "cpu",
        "seed": spec["seed"],
    }
    run = api.pretrain(folder / "tokens", "run", "nano", settings, runs_root=folder / "runs")
    seconds = time.monotonic() - began
    api.embed(folder / "tokens", run["run_dir"], folder / "embedded.parquet", device="cpu")
    embedded = pq.read_table(folder / "embedded.parquet")
    pq.write_table(embedded.replace_schema_metadata({"seconds": str(seconds)}), out)


def _fields(row: dict[str, Any], spec: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, str(row[name])) for name in (*spec["texts"], *spec["numbers"]) if row[name] is not None]


def _events(events: pa.Table, spec: dict[str, Any]) -> pa.Table:
    fields = [[("kind", row["modality"]), *_fields(row, spec)] for row in events.to_pylist()]
    return pa.table(
        {
            "user_id": events["user_id"].cast(pa.string()),
            "ts": events["event_time"].cast(pa.timestamp("us")),
            "source": pa.array(["transaction"] * len(events), pa.string()),
            "fields": pa.array(fields, _MAP),
        },
        schema=_schema(ts=pa.timestamp("us"), source=pa.string(), fields=_MAP),
    )


def _profiles(events: pa.Table, profiles: pa.Table, spec: dict[str, Any]) -> pa.Table:
    attributes = {row["user_id"]: _fields(row, spec) for row in profiles.to_pylist()}
    users = pc.unique(events["user_id"]).to_pylist()
    return pa.table(
        {
            "user_id": pa.array(users, pa.string()),
            "as_of": pa.array([spec["cutoff"]] * len(users), pa.timestamp("us")),
            "attributes": pa.array([attributes.get(user, []) for user in users], _MAP),
            "lifelong": pa.array([[] for _ in users], _LIFELONG),
        },
        schema=_schema(as_of=pa.timestamp("us"), attributes=_MAP, lifelong=_LIFELONG),
    )


def _schema(**columns: pa.DataType) -> pa.Schema:
    named = {"user_id": pa.string(), **columns}
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in named.items()])


if __name__ == "__main__":
    main()
