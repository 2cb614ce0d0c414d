"""Other event models in the quality benchmark: CoLES (pytorch-lifestream) and pragmatiq.

Each is installed from PyPI into its virtual environment and trained there, in a child process, on the same
events before the cut-off and on no label. Events and embeddings are exchanged as Parquet; one code probes all
embeddings.
"""

import json
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.quality_cache import ResultCache, code_hash
from benchmarks.quality_data import DataSet
from benchmarks.quality_model import described
from qanchor.names import EVENT_TIME, MODALITY, USER_ID
from qanchor.times import to_microseconds

Vectors = NDArray[np.float32]
_ROOT = Path(__file__).parents[1]
# The build of the project's constraints: any other one brings gigabytes of GPU libraries.
_TORCH = "torch==2.13.0"


@dataclass(frozen=True)
class Peer:
    """Another model.

    Args:
        name: name in the tables.
        script: script of the child process, in this folder.
        requirements: requirements that pip installs with dependencies.
        alone: requirements that pip installs without dependencies.
        settings: settings of the child process by data set.
    """

    name: str
    script: str
    requirements: tuple[str, ...]
    alone: tuple[str, ...] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


PEERS = {
    "coles": Peer(
        "CoLES",
        "quality_coles.py",
        (
            *("pytorch-lightning", "torchmetrics", "omegaconf", "hydra-core", "duckdb", "dask"),
            *("pymonad", "transformers", "pandas", "pyarrow", "scikit-learn", "onnxruntime"),
        ),
        # It requires a spacy without a wheel for this numpy, and does not use it for events.
        ("pytorch-lifestream==0.7.0",),
        {"online_retail": {"width": 128, "epochs": 30}, "uci_credit_default": {"width": 64, "epochs": 3}},
    ),
    "pragmatiq": Peer(
        "pragmatiq",
        "quality_pragmatiq.py",
        ("pragmatiq==1.1.0", "lightning"),
        (),
        {"online_retail": {"steps": 400}, "uci_credit_default": {"steps": 400}},
    ),
}


@dataclass(frozen=True)
class PeerVectors:
    """A peer's embeddings of one data set.

    Args:
        by_task: float32 [rows, width] by task, in the order of its rows.
        seconds: wall-clock time of the training.
    """

    by_task: Mapping[str, Vectors]
    seconds: float


@dataclass(frozen=True)
class PeerRun:
    """Folders and threads of a child process.

    Args:
        source: folder of the data sets.
        environments: folder of the virtual environments; created as needed.
        threads: threads of the child process; 0: all cores.
    """

    source: Path
    environments: Path
    threads: int


def peer_vectors(data: DataSet, peer: Peer, run: PeerRun, cache: ResultCache) -> PeerVectors:
    """Embeddings by another model, trained on the events before the labels' cut-off.

    Args:
        data: data set with one cut-off for all tasks.
        peer: the other model.
        run: folders and threads of the child process.
        cache: cache of earlier embeddings.

    Raises:
        ValueError: the tasks have several cut-offs.
        subprocess.CalledProcessError: installation or training failed; its output has the cause.
    """
    cutoffs = np.unique(np.concatenate([task.cutoffs for task in data.tasks.values()]))
    if cutoffs.tolist() != [to_microseconds(data.until)]:
        raise ValueError(f"the tasks of {data.name} have several cut-offs; a peer embeds users at one")
    settings = {**peer.settings[data.name], "threads": run.threads, "seed": 0}

    def make(path: Path) -> None:
        python = _environment(peer, run.environments)
        with TemporaryDirectory() as name:
            folder = Path(name)
            _export(data, run.source / data.name / "events.parquet", folder / "events.parquet")
            (folder / "spec.json").write_text(json.dumps(_spec(data, settings)))
            child = [str(python), str(Path(__file__).with_name(peer.script)), name, str(path.resolve())]
            # A separate working folder, because some libraries write logs there.
            subprocess.run(child, check=True, stdout=sys.stderr, cwd=name)

    decided_by = {
        **described(data),
        "peer": asdict(peer),
        "settings": settings,
        "code": code_hash(f"benchmarks/{peer.script}", "benchmarks/quality_peers.py"),
    }
    table = pq.read_table(cache.keep(f"{data.name}: {peer.name}", f"{peer.name}.parquet", decided_by, make))
    row_of = {user: row for row, user in enumerate(table[USER_ID].to_pylist())}
    vectors = np.stack(table["embedding"].to_numpy()).astype(np.float32)
    by_task = {name: vectors[[row_of[user] for user in task.users]] for name, task in data.tasks.items()}
    return PeerVectors(by_task, float(table.schema.metadata[b"seconds"]))


def _environment(peer: Peer, environments: Path) -> Path:
    """The interpreter of the peer's environment, created if it does not exist."""
    folder = environments.resolve() / peer.name
    python, done = folder / "bin" / "python", folder / "installed"
    requirements = "\n".join([_TORCH, *peer.requirements, "alone:", *peer.alone])
    if not done.exists() or done.read_text() != requirements:
        venv.create(folder, clear=True, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        constrained = [*pip, "--constraint", str(_ROOT / "constraints.txt")]
        subprocess.run([*constrained, _TORCH, *peer.requirements], check=True)
        if peer.alone:
            subprocess.run([*pip, "--no-deps", *peer.alone], check=True)
        done.write_text(requirements)
    return python


def _export(data: DataSet, events: Path, path: Path) -> None:
    """Export events before the cut-off, by user and time; no later event leaves this process."""
    table = pq.read_table(events)
    time = table[EVENT_TIME].cast(pa.timestamp("us")).cast(pa.int64())
    table = table.set_column(table.column_names.index(EVENT_TIME), EVENT_TIME, time)
    table = table.filter(pc.less(table[EVENT_TIME], to_microseconds(data.until)))
    order = [(USER_ID, "ascending"), (EVENT_TIME, "ascending"), (MODALITY, "ascending")]
    pq.write_table(table.sort_by(order), path)


def _spec(data: DataSet, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The columns and settings for a child process."""
    kinds: dict[str, str] = {}
    for modality in data.workspace.modalities.values():
        kinds |= {name: spec.type for name, spec in modality.fields.items()}
    return {
        "texts": [name for name, kind in kinds.items() if kind == "text"],
        "numbers": [name for name, kind in kinds.items() if kind == "number"],
        "profiles": [name for name, modality in data.workspace.modalities.items() if modality.profile],
        "cutoff": to_microseconds(data.until),
        **settings,
    }
