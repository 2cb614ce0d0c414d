"""The state of a home - loaded, trained, written, served - from the registry alone, without reading files."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from qanchor.registry.jobs import JobView, list_jobs
from qanchor.registry.ledger import REPLACED
from qanchor.registry.manifests import ACTIVE
from qanchor.registry.session import transaction
from qanchor.registry.tables import (
    EmbeddingManifest,
    Head,
    IndexVersion,
    LabelSet,
    LedgerFile,
    ModelVersion,
    PromptVersion,
)
from qanchor.registry.versions import active_rows
from qanchor.workspace import Workspace

_RECENT_JOBS = 5


@dataclass(frozen=True)
class EventSummary:
    """The event log according to the ledger; repeated event ids are counted repeatedly."""

    events: int
    files: int
    first_date: str | None
    last_date: str | None


@dataclass(frozen=True)
class ModelSummary:
    """The model in service."""

    version: str
    preset: str
    trained_until: datetime
    created_at: datetime


@dataclass(frozen=True)
class ScenarioSummary:
    """The state of a scenario; None for a step that has not run.

    Args:
        scenario: name of the scenario.
        domain: risk, marketing or engagement.
        labels: number of label rows.
        positive_share: share of label 1.
        prompt: version of the soft prompt.
        prompt_is_stale: whether the prompt was tuned on an earlier model.
        vectors: number of rows of the active embeddings, over all cut-offs.
        as_of: cut-off of the current snapshot.
        fingerprint: fingerprint of the embedding space.
        indexed: number of users in the index.
        index_is_behind: whether the embeddings are newer than the index.
        head_auc: test AUC of the head.
        head_is_behind: whether the head belongs to another embedding space, and so refuses to score.
        vectors_are_behind: whether an earlier model or prompt than the one in use made the embeddings.
        tuned_at: time at which the prompt was tuned, UTC, as all times here.
        embedded_at: time at which the embeddings were made.
        indexed_at: time at which the index was built.
        head_at: time at which the head was trained.
    """

    scenario: str
    domain: str
    labels: int | None = None
    positive_share: float | None = None
    prompt: str | None = None
    prompt_is_stale: bool = False
    vectors: int | None = None
    as_of: datetime | None = None
    fingerprint: str | None = None
    indexed: int | None = None
    index_is_behind: bool = False
    head_auc: float | None = None
    head_is_behind: bool = False
    vectors_are_behind: bool = False
    tuned_at: datetime | None = None
    embedded_at: datetime | None = None
    indexed_at: datetime | None = None
    head_at: datetime | None = None


@dataclass(frozen=True)
class Overview:
    """The state of a home."""

    events: EventSummary
    model: ModelSummary | None
    scenarios: tuple[ScenarioSummary, ...]
    jobs: tuple[JobView, ...]


def read_overview(engine: Engine, workspace: Workspace) -> Overview:
    """The state of a home, in a few queries.

    Args:
        engine: the registry.
        workspace: scenarios in their order.
    """
    jobs = list_jobs(engine, _RECENT_JOBS)
    with transaction(engine) as session:
        newest = select(ModelVersion).where(ModelVersion.active.is_(True))
        model = session.scalars(newest.order_by(ModelVersion.created_at.desc())).first()
        return Overview(
            _events(session),
            ModelSummary(model.version, model.preset, model.trained_until, model.created_at)
            if model
            else None,
            _scenarios(session, workspace, model.version if model else None),
            tuple(jobs),
        )


def _events(session: Session) -> EventSummary:
    columns = (
        func.coalesce(func.sum(LedgerFile.rows), 0),
        func.count(),
        func.min(LedgerFile.event_date),
        func.max(LedgerFile.event_date),
    )
    data = select(*columns).where(LedgerFile.state != REPLACED)
    rows, files, first, last = session.execute(data).one()
    return EventSummary(int(rows), int(files), first, last)


def _scenarios(session: Session, workspace: Workspace, model: str | None) -> tuple[ScenarioSummary, ...]:
    labels = {row.scenario: row for row in session.scalars(select(LabelSet))}
    prompts = {row.scenario: row for row in session.scalars(active_rows(PromptVersion))}
    active = select(EmbeddingManifest).where(EmbeddingManifest.state == ACTIVE)
    manifests = {row.scenario: row for row in session.scalars(active.order_by(EmbeddingManifest.id))}
    indexes = {row.scenario: row for row in session.scalars(active_rows(IndexVersion))}
    heads = {row.scenario: row for row in session.scalars(active_rows(Head))}
    return tuple(
        ScenarioSummary(
            scenario=name,
            domain=spec.domain,
            **_label_facts(labels.get(name)),
            **_prompt_facts(prompts.get(name), model),
            **_vector_facts(manifests.get(name), indexes.get(name)),
            vectors_are_behind=_is_behind(manifests.get(name), prompts.get(name), model),
            **_head_facts(heads.get(name), manifests.get(name)),
        )
        for name, spec in workspace.scenarios.items()
    )


def _label_facts(row: LabelSet | None) -> dict[str, Any]:
    return {"labels": row.rows, "positive_share": row.positives / max(row.rows, 1)} if row else {}


def _prompt_facts(row: PromptVersion | None, model: str | None) -> dict[str, Any]:
    if row is None:
        return {}
    is_stale = row.model_version != model
    return {"prompt": row.version, "prompt_is_stale": is_stale, "tuned_at": row.created_at}


def _is_behind(manifest: EmbeddingManifest | None, prompt: PromptVersion | None, model: str | None) -> bool:
    if manifest is None:
        return False
    in_use = prompt.version if prompt and prompt.model_version == model else None
    return (manifest.model_version, manifest.prompt_version) != (model, in_use)


def _vector_facts(manifest: EmbeddingManifest | None, index: IndexVersion | None) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if manifest:
        facts |= {"vectors": manifest.rows, "as_of": manifest.as_of, "fingerprint": manifest.fingerprint}
        facts["embedded_at"] = manifest.created_at
    if index:
        behind = manifest is None or manifest.id != index.manifest_id
        facts |= {"indexed": index.rows, "index_is_behind": behind, "indexed_at": index.created_at}
    return facts


def _head_facts(head: Head | None, manifest: EmbeddingManifest | None) -> dict[str, Any]:
    if head is None:
        return {}
    test = head.metrics.get("test")
    scores = test.get("head") if isinstance(test, Mapping) else None
    auc = scores.get("auc") if isinstance(scores, Mapping) else None
    behind = manifest is None or manifest.fingerprint != head.fingerprint
    return {"head_auc": auc, "head_is_behind": behind, "head_at": head.created_at}
