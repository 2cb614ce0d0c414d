"""A scenario's soft prompt: a few vectors in the suffix, and one prototype per class."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from qanchor.errors import CheckpointInvalid
from qanchor.files import ArtifactFolder

FORMAT_VERSION = 1
KIND = "soft prompt"


@dataclass(frozen=True)
class SoftPrompt:
    """The result of prompt tuning.

    Args:
        vectors: float32 [prompt tokens, d_model], put between the prefix and the query.
        prototypes: float32 [classes, dim], near the vectors of each class's users.

    Source: arXiv 2602.14492, section 3.2.3.
    """

    vectors: Tensor
    prototypes: Tensor


@dataclass(frozen=True)
class StoredPrompt:
    """A soft prompt as it was stored.

    Args:
        prompt: on the CPU.
        metadata: JSON of the run that tuned it.
        content_hash: identifies the prompt; part of its embedding space's fingerprint.
    """

    prompt: SoftPrompt
    metadata: dict[str, Any]
    content_hash: str


def save_prompt(path: Path, prompt: SoftPrompt, metadata: Mapping[str, Any]) -> str:
    """Write a prompt into a new folder and give its content hash.

    Args:
        path: the folder; must not exist.
        prompt: the prompt.
        metadata: JSON, such as the scenario and the model's content hash.

    Raises:
        CheckpointInvalid: the folder exists; choose another version's name.
        DiskFull: no space is left; free some.
    """
    tensors = {
        "vectors": prompt.vectors.detach().float().cpu().contiguous(),
        "prototypes": prompt.prototypes.detach().float().cpu().contiguous(),
    }

    def write(folder: Path) -> None:
        save_file(tensors, str(folder / "prompt.safetensors"))

    return ArtifactFolder.write(path, KIND, FORMAT_VERSION, write, metadata).content_hash


def load_prompt(path: Path) -> StoredPrompt:
    """The prompt of a folder that `save_prompt` wrote.

    Raises:
        CheckpointInvalid: it is not there, damaged, or of another format version.
    """
    manifest = ArtifactFolder.open(path, KIND, FORMAT_VERSION)
    tensors = load_file(str(path / "prompt.safetensors"))
    if set(tensors) != {"vectors", "prototypes"}:
        raise CheckpointInvalid(f"{path} does not hold a soft prompt", "Tune the scenario again.")
    prompt = SoftPrompt(tensors["vectors"], tensors["prototypes"])
    return StoredPrompt(prompt, manifest.metadata, manifest.content_hash)
