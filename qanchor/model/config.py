"""What a model is made of, and the three presets."""

from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, model_validator

from qanchor.errors import CheckpointInvalid, WorkspaceInvalid
from qanchor.names import EMBEDDING_WIDTH
from qanchor.workspace import ModalitySpec, Workspace

Preset = Literal["tiny", "small", "paper"]
Pooling = Literal["cls", "mean"]

# Of new models. Models stored before there were any have none, so that the field's default is 0.
TABULAR_TOKENS = 4
PAPER_BACKBONE = "Qwen/Qwen2.5-0.5B-Instruct"
PAPER_TEXT_ENCODER = "thenlper/gte-base"
TEXT_LORA_MODULES = ("query", "key", "value", "dense")


class LoraSpec(BaseModel, extra="forbid", frozen=True):
    """Low-rank adapters on a frozen model (arXiv 2602.14492, section 4)."""

    rank: int = Field(64, gt=0)
    alpha: int = Field(32, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class BackboneConfig(BaseModel, extra="forbid", frozen=True):
    """The decoder: from scratch by its sizes, or a stored one, of which only source and width are read."""

    source: str = Field("", description="name or folder of a pre-trained decoder; empty: from scratch")
    width: int = Field(96, gt=0)
    layers: int = Field(2, gt=0)
    heads: int = Field(3, gt=0)
    key_value_heads: int = Field(3, gt=0)
    feed_forward: int = Field(192, gt=0)
    max_tokens: int = Field(4_096, gt=0, description="positions that the rotary embedding is made for")
    lora: LoraSpec | None = None
    architecture: dict[str, Any] | None = Field(
        None, description="of a stored decoder whose weights are in the checkpoint"
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> "BackboneConfig":
        if not self.source and (self.width % (2 * self.heads) or self.heads % self.key_value_heads):
            raise ValueError("width must divide into an even width per head, and heads by key_value_heads")
        return self


class TextEncoderConfig(BaseModel, extra="forbid", frozen=True):
    """What turns an event's text into a vector."""

    kind: Literal["bag", "transformer"] = "bag"
    source: str = Field("", description="name or folder of a pre-trained encoder (kind transformer)")
    width: int = Field(64, gt=0)
    max_tokens: int = Field(24, gt=0, description="tokens kept of one event's text")
    pooling: Pooling = Field("cls", description="which vector of a transformer is the text's")
    lora: LoraSpec | None = None
    architecture: dict[str, Any] | None = Field(
        None, description="of a stored encoder whose weights are in the checkpoint"
    )


class ModelConfig(BaseModel, extra="forbid", frozen=True):
    """Everything that decides the model's shape; stored with every checkpoint."""

    preset: str = "tiny"
    window_days: int = Field(90, gt=0)
    modalities: dict[str, ModalitySpec] = Field(min_length=1)
    backbone: BackboneConfig = BackboneConfig()
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    vocabulary: int = Field(2_048, ge=300, description="most tokens of a tokenizer that is trained here")
    projection_width: int = Field(512, gt=0)
    embedding_width: int = Field(EMBEDDING_WIDTH, gt=0)
    max_question_tokens: int = Field(96, gt=1)
    max_answer_tokens: int = Field(200, gt=1)
    nested_widths: tuple[int, ...] = Field((), description="widths below the whole that can be served alone")
    use_user_token: bool = True
    use_modality_tokens: bool = True
    tabular_tokens: int = Field(0, ge=0, description="prefix tokens made of point-in-time aggregates")

    @property
    def widths(self) -> list[int]:
        """Numbers of a vector that can be served alone, ascending; the last is all."""
        return sorted({*self.nested_widths, self.embedding_width})

    def workspace(self) -> Workspace:
        """The modalities as a workspace without scenarios, by which events are read for this model."""
        return Workspace(Path(), self.window_days, self.modalities, {})

    def check_workspace(self, workspace: Workspace) -> None:
        """Refuse a workspace whose events this model would misread.

        Args:
            workspace: definition of the events.

        Raises:
            CheckpointInvalid: the window, or a modality's text, numbers or limit differ; pre-train again.
        """
        modalities = workspace.modalities
        if workspace.window_days != self.window_days:
            difference = f"a window of {self.window_days} days, not {workspace.window_days}"
        elif list(modalities) != list(self.modalities):
            difference = f"the modalities {', '.join(self.modalities)}, not {', '.join(modalities)}"
        else:
            changed = [n for n, spec in modalities.items() if _read_as(spec) != _read_as(self.modalities[n])]
            if not changed:
                return
            difference = f"another definition of modality {changed[0]}"
        raise CheckpointInvalid(
            f"the model was trained with {difference}",
            "Restore modalities.yaml, or run `qanchor-cli pretrain` again.",
        )


def _read_as(spec: ModalitySpec) -> tuple[Any, ...]:
    """What the model sees of a modality."""
    numbers = tuple((name, spec.fields[name].transform) for name in spec.numbers)
    return spec.text, spec.max_events, numbers


_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "small": {
        "backbone": BackboneConfig(width=256, layers=4, heads=8, key_value_heads=4, feed_forward=768),
        "text_encoder": TextEncoderConfig(width=256, max_tokens=32),
        "vocabulary": 8_192,
    },
    "paper": {
        "backbone": BackboneConfig(
            source=PAPER_BACKBONE,
            width=896,
            layers=24,
            heads=14,
            key_value_heads=2,
            feed_forward=4_864,
            max_tokens=32_768,
            lora=LoraSpec(),
        ),
        "text_encoder": TextEncoderConfig(
            kind="transformer",
            source=PAPER_TEXT_ENCODER,
            width=768,
            max_tokens=50,
            lora=LoraSpec(modules=TEXT_LORA_MODULES),
        ),
    },
}


def preset_config(preset: str, workspace: Workspace, **changes: Any) -> ModelConfig:
    """The configuration of a preset for a workspace's modalities.

    Args:
        preset: tiny, small or paper.
        workspace: names the modalities and the window.
        **changes: fields of ModelConfig with other values.

    Raises:
        WorkspaceInvalid: there is no such preset; name one of the three.
    """
    if preset not in get_args(Preset):
        raise WorkspaceInvalid(f"preset {preset!r} is unknown", f"Use one of {', '.join(get_args(Preset))}.")
    fields: dict[str, Any] = {
        "preset": preset,
        "window_days": workspace.window_days,
        "modalities": dict(workspace.modalities),
        "tabular_tokens": TABULAR_TOKENS,
    }
    return ModelConfig(**{**fields, **_SIZES[preset], **changes})
