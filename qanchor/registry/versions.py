"""Which version of each thing serves: registered by who made it, asked for by who uses it.

Making a version active retires the earlier one in the same transaction, so that a reader sees
either the old or the new, never none or both. `path` may be relative to the home folder:
`home.root / row.path` holds either way.
"""

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import Engine, Select, select, update

from qanchor.errors import NotReady
from qanchor.registry.session import transaction
from qanchor.registry.tables import Head, IndexVersion, ModelVersion, PromptVersion, Scenario
from qanchor.workspace import Workspace

_Row = TypeVar("_Row", PromptVersion, IndexVersion, Head)


def sync_scenarios(engine: Engine, workspace: Workspace) -> None:
    """Bring the table of scenarios to what scenarios.yaml says; those gone from the file stay."""
    with transaction(engine) as session:
        for name, spec in workspace.scenarios.items():
            session.merge(
                Scenario(
                    name=name,
                    domain=spec.domain,
                    query=spec.query,
                    horizon_days=spec.horizon_days,
                    ttl_days=spec.ttl_days,
                )
            )


def register_model(engine: Engine, model: ModelVersion) -> ModelVersion:
    """Record a pre-trained model and make it the one that serves."""
    with transaction(engine) as session:
        session.execute(update(ModelVersion).values(active=False))
        model.active = True
        session.add(model)
    return model


def active_model(engine: Engine) -> ModelVersion:
    """The model that serves.

    Raises:
        NotReady: none was trained yet; run `qanchor-cli pretrain`.
    """
    model = find_active_model(engine)
    if model is None:
        raise NotReady("there is no model yet", "Run `qanchor-cli pretrain`.")
    return model


def find_active_model(engine: Engine) -> ModelVersion | None:
    """As `active_model`, None where there is none."""
    with transaction(engine) as session:
        query = select(ModelVersion).where(ModelVersion.active.is_(True))
        return session.scalars(query.order_by(ModelVersion.created_at.desc())).first()


def register_prompt(engine: Engine, prompt: PromptVersion) -> PromptVersion:
    """Record a tuned soft prompt and make it its scenario's."""
    return _register(engine, prompt)


def use_prompt(engine: Engine, scenario: str, version: str) -> PromptVersion:
    """Put an earlier prompt of a scenario back in use; no model is loaded or changed.

    Args:
        engine: of the registry.
        scenario: its name.
        version: of the prompt, or the beginning of it.

    Raises:
        NotReady: the scenario has no such prompt, or several begin so; the message names those there are.
    """
    with transaction(engine) as session:
        query = select(PromptVersion).where(PromptVersion.scenario == scenario)
        prompts = list(session.scalars(query.order_by(PromptVersion.version.desc())))
        found = [prompt for prompt in prompts if prompt.version.startswith(version)]
        if len(found) != 1:
            known = ", ".join(prompt.version for prompt in prompts[:5]) or "none"
            problem = "has no prompt" if not found else f"has {len(found)} prompts"
            raise NotReady(f"{scenario} {problem} {version!r}", f"Prompts there are: {known}.")
        session.execute(update(PromptVersion).where(PromptVersion.scenario == scenario).values(active=False))
        session.execute(
            update(PromptVersion).where(PromptVersion.version == found[0].version).values(active=True)
        )
    return found[0]


def active_prompt(engine: Engine, scenario: str, model_version: str | None = None) -> PromptVersion | None:
    """The soft prompt of a scenario; None where it was never tuned.

    Args:
        engine: of the registry.
        scenario: its name.
        model_version: None also where the prompt was tuned on another model than this.
    """
    prompt = _active(engine, PromptVersion, scenario)
    if prompt is None or (model_version is not None and prompt.model_version != model_version):
        return None
    return prompt


def register_index(engine: Engine, index: IndexVersion) -> IndexVersion:
    """Record a FAISS index and make it its scenario's."""
    return _register(engine, index)


def active_index(engine: Engine, scenario: str) -> IndexVersion:
    """The index that serves a scenario.

    Raises:
        NotReady: none was built yet; run `qanchor-cli index build --scenario`.
    """
    index = _active(engine, IndexVersion, scenario)
    if index is None:
        raise NotReady(
            f"there is no index of {scenario!r} yet", f"Run `qanchor-cli index build --scenario {scenario}`."
        )
    return index


def register_head(engine: Engine, head: Head, promote: bool = True) -> Head:
    """Record a LightGBM head.

    It becomes its scenario's champion if asked, if there is none, or if the champion reads vectors of
    another space and so cannot score any more; otherwise it is a challenger.
    """
    champion = _active(engine, Head, head.scenario)
    if promote or champion is None or champion.fingerprint != head.fingerprint:
        return _register(engine, head)
    with transaction(engine) as session:
        head.active = False
        session.add(head)
    return head


def promote_head(engine: Engine, head: Head) -> None:
    """Make a registered head its scenario's champion, in place of the one before."""
    with transaction(engine) as session:
        session.execute(update(Head).where(Head.scenario == head.scenario).values(active=False))
        session.execute(update(Head).where(Head.version == head.version).values(active=True))


def list_heads(engine: Engine, scenario: str) -> list[Head]:
    """All heads of a scenario, the newest first."""
    with transaction(engine) as session:
        query = select(Head).where(Head.scenario == scenario).order_by(Head.version.desc())
        return list(session.scalars(query))


def active_head(engine: Engine, scenario: str) -> Head:
    """The head that scores a scenario.

    Raises:
        NotReady: none was trained yet; run `qanchor-cli head train --scenario`.
    """
    head = _active(engine, Head, scenario)
    if head is None:
        raise NotReady(
            f"there is no head of {scenario!r} yet",
            f"Run `qanchor-cli head train --scenario {scenario}`, or, without labels, "
            f"`qanchor-cli zero-label score --scenario {scenario}`.",
        )
    return head


def active_by_scenario(engine: Engine, kind: type[_Row], scenarios: Sequence[str]) -> dict[str, _Row]:
    """The active row of every scenario that has one, in one query.

    Args:
        engine: of the registry.
        kind: PromptVersion, IndexVersion or Head.
        scenarios: names, in the order wanted.
    """
    with transaction(engine) as session:
        rows = {row.scenario: row for row in session.scalars(_active_rows(kind))}
    return {name: rows[name] for name in scenarios if name in rows}


def _active_rows(kind: type[_Row]) -> Select[_Row]:
    return select(kind).where(kind.active.is_(True)).order_by(kind.created_at)


def _active(engine: Engine, kind: type[_Row], scenario: str) -> _Row | None:
    return active_by_scenario(engine, kind, [scenario]).get(scenario)


def _register(engine: Engine, row: _Row) -> _Row:
    kind = type(row)
    with transaction(engine) as session:
        session.execute(update(kind).where(kind.scenario == row.scenario).values(active=False))
        row.active = True
        session.add(row)
    return row
