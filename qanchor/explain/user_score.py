"""The explanation of one user's score: feature groups, single features, and the events with most effect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qanchor.embedding.spaces import active_spaces, load_embedder, settled_precision
from qanchor.errors import FingerprintMismatch, NotReady
from qanchor.explain.event_effects import Explainer, ExplainOptions, event_effects, read_events
from qanchor.explain.event_sets import EventEffect
from qanchor.heads.card import read_stored_frame
from qanchor.heads.contributions import contributions
from qanchor.heads.score import LoadedHead, check_space, load_head
from qanchor.heads.spec import column, vectors
from qanchor.names import AS_OF, EVENT_ID, EVENT_TIME, MODALITY, USER_ID, embedding_field
from qanchor.registry.manifests import active_manifests
from qanchor.site import Site
from qanchor.times import TIMESTAMP, as_utc

_HIDDEN = (USER_ID, EVENT_ID, EVENT_TIME, MODALITY)


@dataclass(frozen=True)
class ExplainRequest:
    """A score to explain.

    Args:
        scenario: name of the scenario; its champion's score is explained.
        user: user id.
        as_of: cut-off of features and events, UTC; None: that of the vectors in service.
        features: number of single features to name.
        events: number of events to name in either direction and together; 0: none, and no model is loaded.
    """

    scenario: str
    user: str
    as_of: datetime | None = None
    features: int = 10
    events: int = 5


@dataclass(frozen=True)
class UserExplanation:
    """The parts of a user's score.

    Args:
        scenario: name of the scenario.
        head: version of the head.
        user: user id.
        as_of: cut-off of features and events, UTC.
        score: probability of label 1.
        raw: raw score, before calibration; the sum of base and groups.
        base: raw score before any feature.
        groups: contribution of each feature group to the raw score, the largest first.
        features: name, value and contribution of the strongest features of aggregates and profile.
        recomputed: raw score of the events before as_of, where events are named; None otherwise.
        raised: events without which the raw score would be lower, the strongest first.
        lowered: events without which it would be higher, the strongest first.
        together: events with the largest joint effect on the raw score.
        together_effect: their joint effect; 0 where no set of events moves the score.
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
    recomputed: float | None = None
    raised: tuple[dict[str, Any], ...] = ()
    lowered: tuple[dict[str, Any], ...] = ()
    together: tuple[dict[str, Any], ...] = ()
    together_effect: float = 0.0


def explain_user(site: Site, request: ExplainRequest) -> UserExplanation:
    """Explain the champion's score of a user.

    Args:
        site: workspace, home, registry and feature repository.
        request: the score to explain.

    Raises:
        UnknownScenario: scenarios.yaml does not name it.
        NotReady: there is no head, or the user has no features then.
        CheckpointInvalid: a file of the head or the model was edited.
        FingerprintMismatch: the vectors or the model in service are of another space than the head's.
    """
    head = load_head(site, request.scenario)
    if head.card.width:
        refit = f"Run `qanchor-cli head train --scenario {request.scenario}` to fit a head on these vectors."
        check_space(site, request.scenario, head.card.fingerprint, refit)
    cutoff = _served_moment(site, request.scenario) if request.as_of is None else as_utc(request.as_of)
    table = _features(site, head, request.user, cutoff)
    parts = contributions(head.boosters, head.card.spec, table, site.workspace)
    groups = {name: float(values[0]) for name, values in parts.groups.items()}
    explanation = UserExplanation(
        scenario=request.scenario,
        head=head.card.version,
        user=request.user,
        as_of=cutoff,
        score=float(head.score(table)[0]),
        raw=float(parts.raw[0]),
        base=float(parts.base[0]),
        groups=dict(sorted(groups.items(), key=lambda item: -abs(item[1]))),
        features=_strongest_features(head, table, parts.features, request.features),
    )
    if request.events and head.card.width:
        return _with_events(site, head, explanation, request.events)
    return explanation


def _served_moment(site: Site, scenario: str) -> datetime:
    manifest = active_manifests(site.engine, [scenario]).get(scenario)
    if manifest is None or manifest.as_of is None:
        return datetime.now(UTC)
    return as_utc(manifest.as_of)


def _features(site: Site, head: LoadedHead, user: str, cutoff: datetime) -> pa.Table:
    spec = head.card.spec
    request = pa.table({USER_ID: pa.array([user]), AS_OF: pa.array([cutoff], TIMESTAMP)})
    table = site.features.training_frame(request, list(spec.views(site.workspace)))
    if np.isnan(spec.matrix(table)).all():
        raise NotReady(
            f"user {user!r} has no features of {spec.scenario} as of {cutoff:%Y-%m-%d %H:%M}",
            "Check the id, or give an --as-of at which the user had a history and the backfill ran.",
        )
    return table


def _strongest_features(
    head: LoadedHead, table: pa.Table, parts: Mapping[str, NDArray[np.float64]], count: int
) -> tuple[dict[str, Any], ...]:
    spec = head.card.spec
    names = [name for name in (*spec.numbers, *spec.categories) if parts[name][0]]
    names.sort(key=lambda name: -abs(parts[name][0]))
    return tuple(
        {"feature": name, "value": table[name][0].as_py(), "contribution": float(parts[name][0])}
        for name in names[:count]
    )


def load_explainer(site: Site, head: LoadedHead) -> Explainer:
    """The head with its model, its query and other users' vectors.

    Args:
        site: workspace, home and registry.
        head: head that reads vectors.

    Raises:
        FingerprintMismatch: the model in service is of another space than the head's; train the head again.
        CheckpointInvalid: a file of the head or the model was edited.
    """
    scenario = head.card.scenario
    spaces = active_spaces(site, [scenario], settled_precision(site.settings.compute))
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


def _with_events(site: Site, head: LoadedHead, explanation: UserExplanation, count: int) -> UserExplanation:
    events = read_events(site.event_log, site.workspace, [explanation.user], explanation.as_of)
    if not events.num_rows:
        return explanation
    explainer = replace(load_explainer(site, head), options=ExplainOptions(together=count))
    effects = event_effects(explainer, events, explanation.as_of)
    by_row = {event.row: event for event in effects.events}
    return replace(
        explanation,
        recomputed=effects.raw,
        raised=_described(events, effects.raised[:count]),
        lowered=_described(events, effects.lowered[:count]),
        together=_described(events, [by_row[row] for row in effects.together.rows]),
        together_effect=effects.together.effect,
    )


def _described(events: pa.Table, effects: Sequence[EventEffect]) -> tuple[dict[str, Any], ...]:
    rows = events.take(pa.array([effect.row for effect in effects], pa.int64())).to_pylist()
    return tuple(
        {
            "event_time": row[EVENT_TIME],
            "modality": row[MODALITY],
            "fields": {
                name: value
                for name, value in row.items()
                if value is not None and name not in _HIDDEN and not name.startswith("_")
            },
            "effect": effect.effect,
            "pull": effect.pull,
        }
        for row, effect in zip(rows, effects, strict=True)
    )
