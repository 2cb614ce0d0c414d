"""The embedding space of each scenario: the active model, the query, and the soft prompt if tuned."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from qanchor.errors import InputError
from qanchor.names import EMBEDDING_WIDTH
from qanchor.registry.tables import ModelVersion, PromptVersion
from qanchor.registry.versions import active_by_scenario, active_model
from qanchor.settings import ComputeSettings
from qanchor.workspace import Workspace

FLOAT32: Final = "float32"
BFLOAT16: Final = "bfloat16"
# Looked at first: importing torch to ask it costs two seconds.
_GPU_FILES: Final = Path("/dev")
_GPU_PATTERNS: Final = ("nvidia[0-9]*", "kfd", "dxg")


@dataclass(frozen=True)
class Space:
    """Where a scenario's vectors live.

    Args:
        scenario: its name.
        query: text of the scenario's query.
        model: that reads histories.
        prompt: soft prompt tuned for the query; None where the scenario was not tuned on this model.
        stale_prompt: a prompt of an earlier model, which is left out.
        fingerprint: of all of these, and of the number format.
        precision: the number format that vectors are made in: float32, bfloat16 or int8.
        width: numbers of a vector that are kept.
    """

    scenario: str
    query: str
    model: ModelVersion
    prompt: PromptVersion | None
    stale_prompt: str | None
    fingerprint: str
    precision: str = FLOAT32
    width: int = EMBEDDING_WIDTH


def settled_precision(compute: ComputeSettings, on_gpu: bool | None = None) -> str:
    """The number format that `auto` stands for here: float32, bfloat16 or int8.

    Args:
        compute: device and number format as they are set.
        on_gpu: whether the model will run on a GPU, of whatever machine; None: look at this one.
    """
    if compute.precision != "auto":
        return compute.precision
    if on_gpu is not None:
        return BFLOAT16 if on_gpu else FLOAT32
    if compute.device == "cpu" or not _may_have_gpu():
        return FLOAT32
    from qanchor.model.runtime import choose_runtime

    return str(choose_runtime(compute.device).dtype).removeprefix("torch.")


def _may_have_gpu() -> bool:
    return any(True for pattern in _GPU_PATTERNS for _ in _GPU_FILES.glob(pattern))


def active_spaces(
    engine: Engine, workspace: Workspace, scenarios: Sequence[str], precision: str = FLOAT32
) -> list[Space]:
    """The spaces that a backfill of these scenarios writes to.

    Args:
        engine: the registry.
        workspace: gives the queries.
        scenarios: names.
        precision: of the vectors, from `settled_precision`.

    Raises:
        NotReady: there is no model yet; run `qanchor-cli pretrain`.
        InputError: a scenario asks for a width that the model was not trained for.
    """
    from qanchor.model.space import fingerprint

    model = active_model(engine)
    prompts = active_by_scenario(engine, PromptVersion, scenarios)
    spaces = []
    for name in scenarios:
        found = prompts.get(name)
        fits = found is not None and found.model_version == model.version
        prompt = found if fits else None
        query, width = workspace.scenario(name).query, served_width(workspace, name, model)
        prompt_hash = prompt.content_hash if prompt else None
        spaces.append(
            Space(
                scenario=name,
                query=query,
                model=model,
                prompt=prompt,
                stale_prompt=found.version if found and not fits else None,
                fingerprint=fingerprint(model.content_hash, prompt_hash, query, width, precision),
                precision=precision,
                width=width,
            )
        )
    return spaces


def served_width(workspace: Workspace, scenario: str, model: ModelVersion) -> int:
    """Numbers that a scenario's vectors have once they are served.

    Args:
        workspace: says what the scenario asks for.
        scenario: its name.
        model: that makes the vectors.

    Raises:
        InputError: the model was not trained for that width.
    """
    # Models that were registered before widths were noted have whole vectors alone.
    known = model.metrics.get("widths") or [EMBEDDING_WIDTH]
    asked = workspace.scenario(scenario).width or known[-1]
    if asked not in known:
        raise InputError(
            f"scenario {scenario!r} asks for width {asked}, and model {model.version} was trained for "
            f"{', '.join(map(str, known))}",
            f"Set `width` in scenarios.yaml to one of these, or run `qanchor-cli pretrain --widths {asked}`.",
        )
    return int(asked)
