"""The configuration: three presets, a JSON round trip, and no model on events it would misread."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from qanchor.errors import CheckpointInvalid, WorkspaceInvalid
from qanchor.model.config import BackboneConfig, ModelConfig, preset_config
from qanchor.workspace import ModalitySpec
from tests.unit.model.worlds import WORKSPACE


@pytest.mark.parametrize("preset", ["tiny", "small", "paper"])
def test_a_config_survives_json(preset: str) -> None:
    config = preset_config(preset, WORKSPACE)
    again = ModelConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert list(again.modalities) == list(WORKSPACE.modalities)


def test_paper_is_what_the_paper_states() -> None:
    config = preset_config("paper", WORKSPACE)
    assert config.backbone.source == "Qwen/Qwen2.5-0.5B-Instruct"
    lora = config.backbone.lora
    assert lora is not None
    assert (lora.rank, lora.alpha, lora.dropout) == (64, 32, 0.1)
    assert set(lora.modules) == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    }  # fmt: skip
    assert (config.projection_width, config.embedding_width) == (512, 128)


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(WorkspaceInvalid, match="'huge' is unknown"):
        preset_config("huge", WORKSPACE)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValidationError, match="even width per head"):
        BackboneConfig(width=30, heads=4)


def test_the_own_workspace_is_accepted() -> None:
    preset_config("small", WORKSPACE).check_workspace(WORKSPACE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_days": 31}, "a window of 30 days, not 31"),
        ({"modalities": {"pay": WORKSPACE.modalities["pay"]}}, "the modalities pay, visit, profile, not pay"),
        (
            {
                "modalities": {
                    **WORKSPACE.modalities,
                    "visit": ModalitySpec(
                        text="{page}", max_events=9, fields=WORKSPACE.modalities["visit"].fields
                    ),
                }
            },
            "another definition of modality visit",
        ),
    ],
)
def test_another_workspace_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointInvalid, match=message):
        preset_config("tiny", WORKSPACE).check_workspace(replace(WORKSPACE, **changes))  # type: ignore[arg-type]
