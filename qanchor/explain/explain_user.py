"""Why one user has their score: groups of features, single features, and the events that moved it most."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qanchor.embedding.load import load_embedder
from qanchor.embedding.spaces import active_spaces, settled_precision
from qanchor.errors import FingerprintMismatch, NotReady
from qanchor.explain.edited_log import read_events
from qanchor.explain.event_sets import MovedScore
from qanchor.explain.explain_events import Explainer, ExplainOptions, explain_events
from qanchor.heads.card import read_stored_frame
from qanchor.heads.contributions import contributions
from qanchor.heads.score import LoadedHead, load_head
from qanchor.heads.spec import column, vectors
from qanchor.heads.train import check_space
from qanchor.names import AS_OF, EVENT_ID, EVENT_TIME, MODALITY, USER_ID, embedding_field
from qanchor.registry.manifests import active_manifests
from qanchor.settings import ComputeSettings
from qanchor.site import Site
from qanchor.storage.event_log import EventLog

_HIDDEN = (USER_ID, EVENT_ID, EVENT_TIME, MODALITY)


@dataclass(frozen=True)
class ExplainRequest:
    """What is explained.

    Args:
        scenario: whose champion's score.
        user: whose score.
        as_of: features and events before then, UTC; None: the moment of the vectors in service.
        features: single features to name.
        events: events to name on either side and together; 0 leaves them out, and the model is not loaded.
    """

    scenario: str
    user: str
    as_of: datetime | None = None
    features: int = 10
    events: int = 5


@dataclass(frozen=True)
class UserExplanation:
    """Why a user has their score.

    Args:
        scenario: of the head.
        head: its version.
        user: whose.
        as_of: UTC.
        score: chance of label 1.
        raw: raw score, before calibration; base and groups add up to it.
        base: raw score before any feature.
        groups: how far each group of features moves the raw score, the strongest first.
        features: name, value and contribution of the strongest features of aggregates and profile.
        recomputed: raw score of the events before as_of, where events are named; None otherwise.
        raised: events without which the raw score would be lower, the strongest first.
        lowered: events without which it would be higher, the strongest first.
        together: events that move the raw score most together.
        together_effect: how far they do; 0 where no set of events was found that moves it.
    """

    scenario: str
    head: str
    user: str
    as_of: datetime
    score: float
    raw: float
    base: float
    groups: dict[str, float]
    features: tuple[dict[str, Any], ...]
    recomputed: float | None
    raised: tuple[dict[str, Any], ...]
    lowered: tuple[dict[str, Any], ...]
    together: tuple[dict[str, Any], ...]
    together_effect: float


def explain_user(site: Site, compute: ComputeSettings, request: ExplainRequest) -> UserExplanation:
    """Explain the champion's score of a user.

    Args:
        site: feature repository, home, registry, workspace.
        compute: what the model runs on.
        request: what is explained.

    Raises:
        UnknownScenario: scenarios.yaml does not name it.
        NotReady: there is no head, or the user has no features then.
        CheckpointInvalid: a file of the head or the model was edited.
        FingerprintMismatch: the vectors or the model in service are of another space than the head's.
    """
    head = load_head(site, request.scenario)
    if head.card.width:
        check_space(site, request.scenario, head.card.fingerprint, _refit(request.scenario))
    moment = request.as_of or _served_moment(site, request.scenario)
    table = _features(site, head, request.user, moment)
    parts = contributions(head.boosters, head.card.spec, table, site.workspace)
    groups = {name: float(values[0]) for name, values in parts.groups.items()}
    named = _NamedEvents()
    if request.events and head.card.width:
        named = _events(site, compute, head, (request, moment))
    return UserExplanation(
        scenario=request.scenario,
        head=head.card.version,
        user=request.user,
        as_of=moment,
        score=float(head.score(table)[0]),
        raw=float(parts.raw[0]),
        base=float(parts.base[0]),
        groups=dict(sorted(groups.items(), key=lambda item: -abs(item[1]))),
        features=_strongest_features(head, table, parts.features, request.features),
        recomputed=named.raw,
        raised=named.raised,
        lowered=named.lowered,
        together=named.together,
        together_effect=named.together_effect,
    )


@dataclass(frozen=True)
class _NamedEvents:
    raw: float | None = None
    raised: tuple[dict[str, Any], ...] = ()
    lowered: tuple[dict[str, Any], ...] = ()
    together: tuple[dict[str, Any], ...] = ()
    together_effect: float = 0.0


def _refit(scenario: str) -> str:
    return f"Run `qanchor-cli head train --scenario {scenario}` to fit a head on these vectors."


def _served_moment(site: Site, scenario: str) -> datetime:
    manifest = active_manifests(site.engine, [scenario]).get(scenario)
    if manifest is None or manifest.as_of is None:
        return datetime.now(UTC)
    return manifest.as_of.replace(tzinfo=UTC)


def _features(site: Site, head: LoadedHead, user: str, moment: datetime) -> pa.Table:
    spec = head.card.spec
    asked = {USER_ID: pa.array([user]), AS_OF: pa.array([moment], pa.timestamp("us", tz="UTC"))}
    table = site.features.training_frame(pa.table(asked), list(spec.views(site.workspace)))
    if np.isnan(spec.matrix(table)).all():
        raise NotReady(
            f"user {user!r} has no features of {spec.scenario} as of {moment:%Y-%m-%d %H:%M}",
            "Check the id, or give an --as-of at which the user had a history and the backfill ran.",
        )
    return table


def _strongest_features(
    head: LoadedHead, table: pa.Table, parts: Any, count: int
) -> tuple[dict[str, Any], ...]:
    spec = head.card.spec
    named = [name for name in (*spec.numbers, *spec.categories) if parts[name][0]]
    named.sort(key=lambda name: -abs(parts[name][0]))
    return tuple(
        {"feature": name, "value": table[name][0].as_py(), "contribution": float(parts[name][0])}
        for name in named[:count]
    )


def load_explainer(site: Site, compute: ComputeSettings, head: LoadedHead) -> Explainer:
    """What naming events needs: the model, the query and other users' vectors beside the head.

    Args:
        site: home, registry, workspace.
        compute: what the model runs on.
        head: that reads vectors.

    Raises:
        FingerprintMismatch: the model in service is of another space than the head's; train the head again.
        CheckpointInvalid: a file of the head or the model was edited.
    """
    scenario = head.card.scenario
    spaces = active_spaces(site, [scenario], settled_precision(compute))
    if spaces[0].fingerprint != head.card.fingerprint:
        raise FingerprintMismatch(
            f"the head reads vectors of {head.card.fingerprint[:12]}, the model in service writes "
            f"{spaces[0].fingerprint[:12]}",
            f"Run `qanchor-cli backfill --scenario {scenario}`, then train the head again.",
        )
    embedder, queries = load_embedder(site, spaces)
    frame = read_stored_frame(head.folder, head.card)
    others = vectors(column(frame.table_of("train"), embedding_field(scenario)), frame.width)
    return Explainer(head, embedder, queries[0], site.workspace, others[np.isfinite(others[:, 0])])


def user_events(table: pa.Table, user: str, before: datetime) -> pa.Table:
    """One user's events before a moment, of a table that `read_events` gave."""
    moment = pa.scalar(before, pa.timestamp("us", tz="UTC"))
    return table.filter(pc.and_(pc.equal(table[USER_ID], user), pc.less(table[EVENT_TIME], moment)))


def _events(
    site: Site, compute: ComputeSettings, head: LoadedHead, asked: tuple[ExplainRequest, datetime]
) -> _NamedEvents:
    request, moment = asked
    log = EventLog(site.home.events, site.workspace)
    events = read_events(log, site.workspace, [request.user], moment)
    if not events.num_rows:
        return _NamedEvents()
    options = ExplainOptions(together=request.events)
    found = explain_events(replace(load_explainer(site, compute, head), options=options), events, moment)
    raised, lowered = (
        tuple(_described(events, event) for event in side[: request.events])
        for side in (found.raised, found.lowered)
    )
    by_row = {event.row: event for event in found.events}
    together = tuple(_described(events, by_row[row]) for row in found.together.rows)
    return _NamedEvents(found.raw, raised, lowered, together, found.together.effect)


def _described(events: pa.Table, event: MovedScore) -> dict[str, Any]:
    row = events.slice(event.row, 1).to_pylist()[0]
    fields = {
        name: value
        for name, value in row.items()
        if value is not None and name not in _HIDDEN and not name.startswith("_")
    }
    return {
        "event_time": row[EVENT_TIME],
        "modality": row[MODALITY],
        "fields": fields,
        "effect": event.effect,
        "pull": event.pull,
    }
