"""The embedding space of each scenario: the active model, the query, and the soft prompt if tuned."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qanchor.errors import CheckpointInvalid, InputError
from qanchor.home import Home
from qanchor.names import EMBEDDING_WIDTH
from qanchor.registry.tables import ModelVersion, PromptVersion
from qanchor.registry.versions import active_by_scenario, active_model
from qanchor.settings import ComputeSettings
from qanchor.site import Site
from qanchor.workspace import Workspace

if TYPE_CHECKING:
    from qanchor.model.embedder import Query, UserEmbedder
    from qanchor.model.soft_prompt import SoftPrompt

FLOAT32: Final = "float32"
BFLOAT16: Final = "bfloat16"
# Looked at first: importing torch costs two seconds.
_GPU_FILES: Final = Path("/dev")
_GPU_PATTERNS: Final = ("nvidia[0-9]*", "kfd", "dxg")


@dataclass(frozen=True)
class Space:
    """The space of a scenario's vectors.

    Args:
        scenario: name of the scenario.
        query: text of the query.
        model: model that reads histories.
        prompt: soft prompt of the query; None where the scenario was not tuned on this model.
        stale_prompt: version of a prompt of an earlier model, which is left out.
        fingerprint: hash of all of these, and of the number format.
        precision: number format that vectors are made in: float32, bfloat16 or int8.
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
    """The number format that `auto` means here: float32, bfloat16 or int8.

    Args:
        compute: device and number format of the settings.
        on_gpu: whether the model will run on a GPU, here or elsewhere; None: look at this machine.
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


def active_spaces(site: Site, scenarios: Sequence[str], precision: str = FLOAT32) -> list[Space]:
    """The spaces that a backfill of these scenarios writes to.

    Args:
        site: registry and scenarios.yaml.
        scenarios: names of the scenarios.
        precision: number format of the vectors, from `settled_precision`.

    Raises:
        NotReady: there is no model yet; run `qanchor-cli pretrain`.
        InputError: a scenario has a width that the model was not trained for.
    """
    from qanchor.model.space import fingerprint

    model = active_model(site.engine)
    prompts = active_by_scenario(site.engine, PromptVersion, scenarios)
    spaces = []
    for name in scenarios:
        active = prompts.get(name)
        prompt = active if active and active.model_version == model.version else None
        query, width = site.workspace.scenario(name).query, _served_width(site.workspace, name, model)
        prompt_hash = prompt.content_hash if prompt else None
        spaces.append(
            Space(
                scenario=name,
                query=query,
                model=model,
                prompt=prompt,
                stale_prompt=active.version if active and not prompt else None,
                fingerprint=fingerprint(model.content_hash, prompt_hash, query, width, precision),
                precision=precision,
                width=width,
            )
        )
    return spaces


def _served_width(workspace: Workspace, scenario: str, model: ModelVersion) -> int:
    # Models that were registered before widths were noted have whole vectors alone.
    known = model.metrics.get("widths") or [EMBEDDING_WIDTH]
    width = workspace.scenario(scenario).width or known[-1]
    if width not in known:
        raise InputError(
            f"scenario {scenario!r} asks for width {width}, and model {model.version} was trained for "
            f"{', '.join(map(str, known))}",
            f"Set `width` in scenarios.yaml to one of these, or run `qanchor-cli pretrain --widths {width}`.",
        )
    return int(width)


def load_embedder(site: Site, spaces: Sequence[Space]) -> "tuple[UserEmbedder, list[Query]]":
    """The model of the spaces, and the query of each of them in their order.

    Args:
        site: models, modalities and device.
        spaces: spaces of one model and number format.

    Raises:
        CheckpointInvalid: a folder is missing, damaged or not the one that was registered, or the model was
            trained on other modalities.
    """
    from qanchor.model.embedder import Query, UserEmbedder
    from qanchor.model.inference import load_for_inference

    # The spaces decide: `auto` may mean another format on the machine that named them.
    model, precision = spaces[0].model, spaces[0].precision
    loaded = load_for_inference(site.home.root / model.path, site.settings.compute.device, precision)
    loaded.config.check_workspace(site.workspace)
    _check("model", model.version, model.content_hash, loaded.content_hash)
    embedder = UserEmbedder(loaded, text_cache=site.home.cache / "texts")
    return embedder, [Query(space.query, _prompt(site.home, space)) for space in spaces]


def _prompt(home: Home, space: Space) -> "SoftPrompt | None":
    from qanchor.model.soft_prompt import load_prompt

    if space.prompt is None:
        return None
    stored = load_prompt(home.root / space.prompt.path)
    _check("prompt", space.prompt.version, space.prompt.content_hash, stored.content_hash)
    return stored.prompt


def _check(kind: str, version: str, registered: str, stored: str) -> None:
    if registered != stored:
        raise CheckpointInvalid(
            f"the folder of {kind} {version} has another {kind} than the registered one",
            "Restore it, or train it again.",
        )
