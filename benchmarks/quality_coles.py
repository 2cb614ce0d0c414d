"""CoLES on a folder's events, by pytorch-lifestream: run by an interpreter that has it, never imported.

    python quality_coles.py FOLDER OUT

FOLDER has events.parquet, by user and time, and spec.json; OUT is the output, a Parquet file of user_id and
embedding, with the seconds of training in its metadata.
"""

import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytorch_lightning as pl
import torch
from ptls.data_load.datasets import MemoryMapDataset
from ptls.data_load.utils import collate_feature_dict
from ptls.frames import PtlsDataModule
from ptls.frames.coles import ColesDataset, CoLESModule
from ptls.frames.coles.split_strategy import SampleSlices
from ptls.nn import RnnSeqEncoder, TrxEncoder

_MOST_CODES = 2_000
_MOST_EVENTS = 1_000
_BATCH = 64
_SLICES = 5
_DAY = 86_400_000_000


def main() -> None:
    """Train, embed, write."""
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    spec = json.loads((folder / "spec.json").read_text())
    if spec["threads"]:
        torch.set_num_threads(spec["threads"])
    pl.seed_everything(spec["seed"])
    events = pd.read_parquet(folder / "events.parquet")
    columns, sizes = _columns(events, spec)
    users, histories = _histories(events["user_id"].to_numpy(), columns)
    began = time.monotonic()
    encoder = _train(histories, sizes, spec)
    seconds = time.monotonic() - began
    table = pa.table({"user_id": users, "embedding": _embed(encoder, histories)})
    pq.write_table(table.replace_schema_metadata({"seconds": str(seconds)}), out)


def _columns(events: pd.DataFrame, spec: dict[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    """Codes by frequency from 1, logarithms of numbers, days, and the number of codes of each text."""
    columns: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    for name in ("modality", *spec["texts"]):
        ranks = {value: rank for rank, value in enumerate(events[name].value_counts().index, start=1)}
        codes = events[name].map(ranks).fillna(0).to_numpy(np.int64)
        columns[name] = codes.clip(max=_MOST_CODES)
        sizes[name] = int(columns[name].max()) + 1
    for name in spec["numbers"]:
        values = events[name].fillna(0).to_numpy(np.float64)
        columns[f"{name}_log"] = (np.sign(values) * np.log1p(np.abs(values))).astype(np.float32)
    days = events["event_time"].to_numpy(np.float64) / _DAY
    user = events["user_id"].to_numpy()
    gap = np.diff(days, prepend=days[0])
    gap[np.append(True, user[1:] != user[:-1])] = 0
    columns["gap_log"] = np.log1p(gap).astype(np.float32)
    columns["event_time"] = days.astype(np.float32)
    return columns, sizes


def _histories(user: np.ndarray[Any, Any], columns: dict[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """Each user's newest events as tensors."""
    starts = np.flatnonzero(np.append(True, user[1:] != user[:-1]))
    histories = []
    for begin, end in pairwise(np.append(starts, len(user)).tolist()):
        newest = slice(max(begin, end - _MOST_EVENTS), end)
        histories.append({name: torch.from_numpy(values[newest]) for name, values in columns.items()})
    return user[starts].tolist(), histories


def _train(histories: Sequence[dict[str, Any]], sizes: dict[str, int], spec: dict[str, Any]) -> Any:
    lengths = np.array([len(history["event_time"]) for history in histories])
    numbers = [f"{name}_log" for name in spec["numbers"]] + ["gap_log"]
    encoder = RnnSeqEncoder(
        trx_encoder=TrxEncoder(
            embeddings_noise=0.003,
            numeric_values=dict.fromkeys(numbers, "identity"),
            embeddings={name: {"in": size, "out": min(32, size)} for name, size in sizes.items()},
        ),
        hidden_size=spec["width"],
        type="gru",
    )
    module = CoLESModule(
        seq_encoder=encoder,
        optimizer_partial=partial(torch.optim.Adam, lr=1e-3),
        lr_scheduler_partial=partial(torch.optim.lr_scheduler.StepLR, step_size=10, gamma=0.7),
    )
    # Slices of a quarter of a usual history up to a long one.
    least, most = max(2, int(np.median(lengths)) // 4), max(3, int(np.quantile(lengths, 0.9)))
    slices = SampleSlices(_SLICES, least, most)
    known = MemoryMapDataset([history for history in histories if len(history["event_time"]) >= least])
    loader = PtlsDataModule(train_data=ColesDataset(known, slices), train_batch_size=_BATCH)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    pl.Trainer(max_epochs=spec["epochs"], accelerator="cpu", **quiet).fit(module, loader)
    return encoder.eval()


@torch.inference_mode()
def _embed(encoder: Any, histories: Sequence[dict[str, Any]]) -> list[np.ndarray[Any, Any]]:
    order = np.argsort([len(history["event_time"]) for history in histories], kind="stable")
    vectors: list[np.ndarray[Any, Any]] = [np.empty(0)] * len(histories)
    for at in range(0, len(order), _BATCH):
        chosen = order[at : at + _BATCH]
        batch = encoder(collate_feature_dict([histories[row] for row in chosen])).numpy()
        for row, vector in zip(chosen, batch, strict=True):
            vectors[row] = vector
    return vectors


if __name__ == "__main__":
    main()
