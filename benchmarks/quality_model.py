"""The models of the quality benchmark, pre-trained or untrained; cached on disk."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.quality_cache import ResultCache, code_hash
from benchmarks.quality_data import DataSet
from qanchor.model.checkpoint import LoadedModel, load_model, save_model
from qanchor.progress import Progress
from qanchor.training import pretrain
from qanchor.training.pretrain import PretrainConfig, Visible
from qanchor.training.tune import TuneConfig

_CODE = (
    "qanchor/events",
    "qanchor/model",
    "qanchor/training",
    "qanchor/metrics",
    "qanchor/aggregates.py",
    "qanchor/workspace.py",
)
_READS = ("benchmarks/quality_data.py", "benchmarks/quality_model.py")
# Not part of pre-training.
_LATER = ("tune", "prefixes", "use_cases")


@dataclass(frozen=True)
class Recipe:
    """Settings of a data set's model.

    Args:
        pretrain: pre-training without labels, on events before the earliest cut-off.
        tune: tuning with the labels of the other folds.
    """

    pretrain: PretrainConfig
    tune: TuneConfig = field(default_factory=TuneConfig)


@dataclass(frozen=True)
class TrainedModel:
    """A model with its training time.

    Args:
        loaded: the model.
        seconds: wall-clock time, pairs included.
        cpu_seconds: CPU time of the process.
    """

    loaded: LoadedModel
    seconds: float
    cpu_seconds: float


def train_model(
    data: DataSet, config: PretrainConfig, cache: ResultCache, progress: Progress
) -> TrainedModel:
    """The model of a configuration, from the cache where the same one was trained on the same files before.

    An interrupted training starts again, because its seconds are a figure of the benchmark.

    Args:
        data: data set; only its events before `data.until` are read.
        config: settings of pre-training; with `steps` of 0 the model stays untrained.
        cache: cache of earlier models.
        progress: bar that advances with every step.
    """

    def make(path: Path) -> None:
        began, used = time.monotonic(), time.process_time()
        result = pretrain.train_model(data.arrays, data.workspace, config, Visible(data.until), progress)
        about = {
            "seconds": time.monotonic() - began,
            "cpu_seconds": time.process_time() - used,
            "metrics": result.metrics,
        }
        save_model(path, result.model, result.tokenizer, result.normaliser, about)

    code = code_hash(*_CODE, *_READS, without=_LATER, libraries=("torch", "numpy"))
    decided_by = {**described(data), "config": asdict(config), "code": code}
    stage = f"{data.name}: {'pre-training' if config.steps else 'untrained model'}"
    loaded = load_model(cache.keep(stage, data.name, decided_by, make), "cpu", "float32")
    return TrainedModel(loaded, loaded.metadata["seconds"], loaded.metadata["cpu_seconds"])


def described(data: DataSet) -> Mapping[str, object]:
    """Hashes of the inputs: the files' content and the example's yaml."""
    modalities = {name: spec.model_dump_json() for name, spec in data.workspace.modalities.items()}
    scenarios = {name: spec.query for name, spec in data.workspace.scenarios.items()}
    return {
        "files": data.content_hash,
        "window_days": data.workspace.window_days,
        "modalities": modalities,
        "scenarios": scenarios,
    }
