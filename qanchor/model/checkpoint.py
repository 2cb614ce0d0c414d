"""Models on disk: safetensors and JSON, complete or absent."""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from qanchor.errors import CheckpointInvalid
from qanchor.files import ArtifactFolder
from qanchor.model.build import build_model
from qanchor.model.config import ModelConfig
from qanchor.model.features import Normaliser
from qanchor.model.qanchor import QAnchor
from qanchor.model.runtime import Runtime, choose_runtime
from qanchor.model.tokens import TextTokenizer
from qanchor.times import now

FORMAT_VERSION = 1
KIND = "model"
_SOURCES = "sources.json"
_SAMPLE = 1_024  # numbers of a weight that its digest reads
_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy")


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to embed, in evaluation mode.

    Args:
        model: the frozen weights.
        tokenizer: tokenizer of queries, answers and event texts.
        normaliser: scales the events' numbers.
        config: shape and modalities.
        metadata: JSON of the run that trained the model.
        content_hash: identifies the model; part of every embedding space's fingerprint.
        runtime: device and number format.
    """

    model: QAnchor
    tokenizer: TextTokenizer
    normaliser: Normaliser
    config: ModelConfig
    metadata: dict[str, Any]
    content_hash: str
    runtime: Runtime


def save_model(
    path: Path,
    model: QAnchor,
    tokenizer: TextTokenizer,
    normaliser: Normaliser,
    metadata: Mapping[str, Any],
) -> str:
    """Write a model into a new folder and give its content hash.

    Weights that were loaded from elsewhere and stayed frozen are not copied: the config names them.

    Args:
        path: the folder; must not exist.
        model: the model, which holds its config.
        tokenizer: tokenizer of the model.
        normaliser: normaliser of the model.
        metadata: JSON, such as trained_until and seed; library versions and the time are added.

    Raises:
        CheckpointInvalid: the folder exists; choose another version's name.
        DiskFull: no space is left; free some.
    """
    weights = {
        name: parameter.detach().cpu().contiguous() for name, parameter in _saved_parameters(model).items()
    }
    tokens = {"pad_id": tokenizer.pad_id, "end_id": tokenizer.end_id}
    sources = _source_digests(model)

    def write(folder: Path) -> None:
        save_file(weights, str(folder / "weights.safetensors"))
        _write_json(folder / "config.json", model.config.model_dump(mode="json"))
        _write_json(folder / "normaliser.json", normaliser.to_json())
        _write_json(folder / "tokens.json", tokens)
        if sources:
            _write_json(folder / _SOURCES, sources)
        tokenizer.save(folder)

    libraries = {name: version(name) for name in _LIBRARIES}
    run = {
        "created": now().isoformat(),
        "libraries": {"python": platform.python_version(), **libraries},
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    return ArtifactFolder.write(path, KIND, FORMAT_VERSION, write, {**run, **metadata}).content_hash


def load_model(path: Path, device: str = "auto", precision: str = "auto") -> LoadedModel:
    """The model of a folder that `save_model` wrote.

    Args:
        path: the folder.
        device: auto, cpu, cuda, cuda:1, ...
        precision: auto, float32 or bfloat16.

    Raises:
        CheckpointInvalid: it is not there, damaged, or of another format version; the message says which.
        NotReady: weights that its config names are not on this machine.
    """
    manifest = ArtifactFolder.open(path, KIND, FORMAT_VERSION)
    runtime = choose_runtime(device, precision)
    try:
        config = ModelConfig.model_validate(_read_json(path / "config.json"))
        normaliser = Normaliser.from_json(_read_json(path / "normaliser.json"))
        tokens = _read_json(path / "tokens.json")
        tokenizer = TextTokenizer.load(path, int(tokens["pad_id"]), int(tokens["end_id"]))
    except (ValidationError, KeyError, FileNotFoundError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointInvalid(f"{path} is invalid: {reason}", "Train the model again.") from error
    model = build_model(config, tokenizer)
    _check_sources(model, path)
    _fill(model, load_file(str(path / "weights.safetensors")), path)
    model.to(runtime.device).eval().requires_grad_(False)
    return LoadedModel(
        model, tokenizer, normaliser, config, manifest.metadata, manifest.content_hash, runtime
    )


def _saved_parameters(model: QAnchor) -> dict[str, Tensor]:
    """Parameters that no other folder holds; tied ones once."""
    borrowed = tuple(_borrowed(model).values())
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if "lora_" in name or not name.startswith(borrowed)
    }


def _borrowed(model: QAnchor) -> dict[str, str]:
    """Weights that other folders hold: the beginning of their names in the model, by folder or name."""
    config = model.config
    parts = ((config.backbone, "backbone.lm."), (config.text_encoder, "encoder.text_encoder.encoder."))
    return {part.source: start for part, start in parts if part.source and part.architecture is None}


def _source_digests(model: QAnchor) -> dict[str, str]:
    """A digest of the weights of every other folder, by its name."""
    named = [(name, weight) for name, weight in model.named_parameters() if "lora_" not in name]
    return {
        source: _weights_digest((name, weight) for name, weight in named if name.startswith(start))
        for source, start in _borrowed(model).items()
    }


def _weights_digest(weights: Iterable[tuple[str, Tensor]]) -> str:
    """A hash of a sample of each weight; it differs for another model of the same shape."""
    digest = hashlib.sha256()
    for name, weight in weights:
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // _SAMPLE)].float().cpu().contiguous()
        digest.update(f"{name}:{tuple(weight.shape)};".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()


def _check_sources(model: QAnchor, path: Path) -> None:
    if not (path / _SOURCES).exists():
        return  # written before digests were kept, or it holds all weights
    for source, expected in _read_json(path / _SOURCES).items():
        if _source_digests(model).get(source) != expected:
            raise CheckpointInvalid(
                f"{source} does not hold the weights that the model at {path} was trained on",
                "Put them back, or train the model again.",
            )


def _fill(model: QAnchor, weights: Mapping[str, Tensor], path: Path) -> None:
    parameters = _saved_parameters(model)
    differing = sorted(parameters.keys() ^ weights.keys())
    differing += [n for n in parameters.keys() & weights.keys() if parameters[n].shape != weights[n].shape]
    if differing:
        raise CheckpointInvalid(
            f"the weights at {path} do not fit their config: {differing[0]}", "Train the model again."
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
