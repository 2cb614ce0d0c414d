"""The versions of models, prompts, indexes and heads, and the one of each that serves.

Activating a version retires the earlier one in the same transaction, so that a reader sees either the old or
the new, never none or both. `path` may be relative to the home folder: `home.root / row.path` is right
either way.
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
    """Update the table of scenarios from scenarios.yaml; those removed from the file stay."""
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
        scenario: name of the scenario.
        version: of the prompt, or its first characters.

    Raises:
        NotReady: the scenario has no such prompt, or several begin so; the message names the latest.
    """
    with transaction(engine) as session:
        query = select(PromptVersion).where(PromptVersion.scenario == scenario)
        prompts = list(session.scalars(query.order_by(PromptVersion.version.desc())))
        prompt = only_match(prompts, "prompt", scenario, version)
        session.execute(update(PromptVersion).where(PromptVersion.scenario == scenario).values(active=False))
        session.execute(
            update(PromptVersion).where(PromptVersion.version == prompt.version).values(active=True)
        )
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

    It becomes its scenario's champion with `promote`, if there is none, or if the champion reads vectors of
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
    """Make a registered head its scenario's champion; it replaces the one before."""
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
        scenarios: names; the result has their order.
    """
    with transaction(engine) as session:
        rows = {row.scenario: row for row in session.scalars(active_rows(kind))}
    return {name: rows[name] for name in scenarios if name in rows}


def only_match(rows: Sequence[_Row], kind: str, scenario: str, version: str) -> _Row:
    """The row whose version is the given one, or alone begins with it.

    Args:
        rows: rows of the scenario, the newest first.
        kind: prompt or head, for the message.
        scenario: name of the scenario, for the message.
        version: version, or its first characters.

    Raises:
        NotReady: no version or more than one begins so; the message names the latest.
    """
    matches = [row for row in rows if row.version.startswith(version)]
    if len(matches) != 1:
        known = ", ".join(row.version for row in rows[:5]) or "none"
        problem = f"has no {kind}" if not matches else f"has {len(matches)} {kind}s"
        raise NotReady(f"{scenario} {problem} {version!r}", f"Existing {kind}s: {known}.")
    return matches[0]


def active_rows(kind: type[_Row]) -> Select[_Row]:
    """The query of all rows of a kind that serve, the newest last."""
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
