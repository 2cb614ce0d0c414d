"""The embedding space of each scenario: the active model, the question, and the soft prompt if tuned."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from qanchor.names import EMBEDDING_WIDTH
from qanchor.registry.tables import ModelVersion, PromptVersion
from qanchor.registry.versions import active_by_scenario, active_model
from qanchor.workspace import Workspace


@dataclass(frozen=True)
class Space:
    """Where a scenario's vectors live.

    Args:
        scenario: its name.
        query: its question.
        model: that reads histories.
        prompt: that sharpens the question; None where the scenario was not tuned on this model.
        stale_prompt: a prompt of an earlier model, which is left out.
        fingerprint: of all of these.
    """

    scenario: str
    query: str
    model: ModelVersion
    prompt: PromptVersion | None
    stale_prompt: str | None
    fingerprint: str


def active_spaces(engine: Engine, workspace: Workspace, scenarios: Sequence[str]) -> list[Space]:
    """The spaces that a backfill of these scenarios writes to.

    Args:
        engine: the registry.
        workspace: gives the questions.
        scenarios: names.

    Raises:
        NotReady: there is no model yet; run `qanchor-cli pretrain`.
    """
    from qanchor.model.fingerprint import fingerprint

    model = active_model(engine)
    prompts = active_by_scenario(engine, PromptVersion, scenarios)
    spaces = []
    for name in scenarios:
        found = prompts.get(name)
        fits = found is not None and found.model_version == model.version
        prompt = found if fits else None
        query = workspace.scenario(name).query
        prompt_hash = prompt.content_hash if prompt else None
        spaces.append(
            Space(
                scenario=name,
                query=query,
                model=model,
                prompt=prompt,
                stale_prompt=found.version if found and not fits else None,
                fingerprint=fingerprint(model.content_hash, prompt_hash, query, EMBEDDING_WIDTH),
            )
        )
    return spaces
