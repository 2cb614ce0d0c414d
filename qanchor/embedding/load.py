"""The registered model and prompts, loaded and checked against the spaces that a backfill writes to."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qanchor.embedding.spaces import Space
from qanchor.errors import CheckpointInvalid
from qanchor.home import Home
from qanchor.site import Site

if TYPE_CHECKING:
    from qanchor.model.embedder import Query, UserEmbedder
    from qanchor.model.soft_prompt import SoftPrompt


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
            f"the folder of {kind} {version} holds another {kind} than the one registered",
            "Restore it, or train it again.",
        )
