"""Scoring users with a trained head, on features of the online or the offline store."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from numpy.typing import NDArray

from qanchor.errors import CheckpointInvalid, FeaturesInvalid, FingerprintMismatch, NotReady
from qanchor.heads.card import HeadCard, read_boosters, read_card
from qanchor.heads.fit import Boosters
from qanchor.heads.spec import FeatureSpec, model_version_column, refuse_broken_vectors
from qanchor.home import Home
from qanchor.metrics import psi
from qanchor.names import (
    AS_OF,
    CREATED,
    EVENT_TIMESTAMP,
    USER_ID,
    embedding_field,
    embedding_view,
    score_field,
    score_view,
)
from qanchor.registry.manifests import active_manifests
from qanchor.registry.tables import Head
from qanchor.registry.versions import active_head, list_heads, only_match
from qanchor.site import Site
from qanchor.threads import thread_count
from qanchor.times import TIMESTAMP, as_utc, now

log = logging.getLogger(__name__)

Store = Literal["online", "offline"]
Unseen = Literal["refuse", "missing"]
Vectors = NDArray[np.float32]
_CHUNK_USERS = 20_000
_SHIFT_USERS = 20_000
_PIECE_ROWS = 10_000


@dataclass(frozen=True)
class LoadedHead:
    """A stored head.

    Args:
        card: description of the head.
        boosters: boosters whose raw scores are averaged.
        folder: folder of its files.
    """

    card: HeadCard
    boosters: Boosters
    folder: Path

    def raw(self, table: pa.Table) -> NDArray[np.float64]:
        """Raw score of every row of a feature table, (rows,)."""
        if table.num_rows <= _PIECE_ROWS:
            return self.boosters.raw(self.card.spec.matrix(table))

        def score_piece(begin: int) -> NDArray[np.float64]:
            return self.boosters.raw(self.card.spec.matrix(table.slice(begin, _PIECE_ROWS)), threads=1)

        # The matrix of one piece fits in the cache, and its building is parallel as predicting is.
        with ThreadPoolExecutor(thread_count()) as pool:
            return np.concatenate(list(pool.map(score_piece, range(0, table.num_rows, _PIECE_ROWS))))

    def score(self, table: pa.Table) -> NDArray[np.float64]:
        """Chance of label 1 for every row of a feature table, (rows,)."""
        return self.card.calibration.probabilities(self.raw(table))


@dataclass(frozen=True)
class ScoreRequest:
    """Users to score, and the features to score them on.

    Args:
        users: ids of the users; None: everybody with a vector in the offline store.
        store: store of the features.
        moment: moment of the features, which must be within their time to live then; None: now.
        unseen: treatment of category values that training did not have.
    """

    users: Sequence[str] | None = None
    store: Store = "online"
    moment: datetime | None = None
    unseen: Unseen = "refuse"


@dataclass(frozen=True)
class Scored:
    """Scores of users.

    Args:
        table: user_id and score in [0, 1], in the order of the request.
        head: version of the head.
        store: store of the features.
        moment: moment of the features, UTC.
        without_embedding: number of users scored without a vector, like one without history.
    """

    table: pa.Table
    head: str
    store: Store
    moment: datetime
    without_embedding: int


def load_head(site: Site, scenario: str, version: str | None = None) -> LoadedHead:
    """A head of a scenario, whole and unedited.

    Args:
        site: home, registry, workspace.
        scenario: name of the scenario.
        version: version of the head; default: the champion.

    Raises:
        UnknownScenario: scenarios.yaml does not name it.
        NotReady: none was trained yet, or none of that version; run `qanchor-cli head train`.
        CheckpointInvalid: a file is missing or was edited; train it again.
    """
    site.workspace.scenario(scenario)
    row = active_head(site.engine, scenario) if version is None else find_head(site, scenario, version)
    folder = site.home.root / row.path
    card = read_card(folder, str(row.metrics.get("card_hash")))
    return LoadedHead(card, read_boosters(folder, card), folder)


def find_head(site: Site, scenario: str, version: str) -> Head:
    """A registered head by its version, or the beginning of it.

    Raises:
        NotReady: no version or more than one begins so; the message lists the existing ones.
    """
    return only_match(list_heads(site.engine, scenario), "head", scenario, version)


def check_space(site: Site, scenario: str, fingerprint: str, remedy: str = "") -> None:
    """Refuse a feature view whose vectors are of another embedding space.

    Args:
        site: feature repository.
        scenario: name of the scenario.
        fingerprint: expected fingerprint.
        remedy: remedy for the message; default: run the backfill.

    Raises:
        FingerprintMismatch: they differ.
    """
    actual = site.features.fingerprint(scenario)
    if actual != fingerprint:
        raise FingerprintMismatch(
            f"the Feast view of {scenario} holds vectors of {actual[:12] if actual else 'no'} "
            f"fingerprint, expected is {fingerprint[:12]}",
            remedy or f"Run `qanchor-cli backfill --scenario {scenario}`.",
        )


def score_users(site: Site, scenario: str, request: ScoreRequest | None = None) -> Scored:
    """Score users with a scenario's champion.

    Args:
        site: feature repository, home, registry, workspace.
        scenario: name of the scenario.
        request: users and features; default: everybody, online, now.

    Raises:
        UnknownScenario: scenarios.yaml does not name it.
        NotReady: there is no head, or the store holds no vector of these users.
        CheckpointInvalid: the head's files were edited.
        FingerprintMismatch: the store's vectors are of another embedding space than the head's.
        FeaturesInvalid: a vector holds NaN, or a category is new; the message names row or column.
    """
    request = request or ScoreRequest()
    head = load_head(site, scenario)
    if head.card.width:
        check_space(
            site,
            scenario,
            head.card.fingerprint,
            f"Run `qanchor-cli head train --scenario {scenario}` to fit a head on these vectors.",
        )
    users = list(request.users) if request.users is not None else _everybody(scenario, site.home)
    moment = now() if request.moment is None else as_utc(request.moment)
    scores, without = [], 0
    for begin in range(0, len(users), _CHUNK_USERS):
        table = _features(head.card.spec, site, users[begin : begin + _CHUNK_USERS], request.store, moment)
        without += _check_vectors(head.card, table)
        if request.unseen == "refuse":
            _refuse_unseen(head.card.spec, table)
        scores.append(head.score(table))
    if head.card.width and without == len(users):
        raise NotReady(
            f"the {request.store} store holds no fresh vector of {scenario} for these {len(users):,} users "
            f"at {moment:%Y-%m-%d}",
            f"Run `qanchor-cli backfill --scenario {scenario}`, or {_older(site, scenario)}.",
        )
    result = pa.table({USER_ID: pa.array(users, pa.string()), "score": np.concatenate(scores)})
    return Scored(result, head.card.version, request.store, moment, without)


def publish_scores(site: Site, scenario: str, scored: Scored) -> int:
    """Publish scores as features: offline with their moment, online through Feast.

    A row's `event_timestamp` is the moment of its features, `created` is now: no label before now can be
    joined to it. Scoring again with the same head at the same moment replaces the rows.

    Args:
        site: offline and online store.
        scenario: name of the scenario.
        scored: scores to publish.

    Returns:
        Number of users with a score in the online store.

    Raises:
        NotReady: Feast does not know the view; run `feast apply` with the template's definitions.py.
        FeaturesInvalid: a user has two scores.
    """
    users = scored.table[USER_ID]
    if pc.count_distinct(users).as_py() != len(users):
        raise FeaturesInvalid("a user has two scores", "Score each user once.")
    field, view, rows = score_field(scenario), score_view(scenario), scored.table.num_rows
    columns = {
        USER_ID: users,
        field: scored.table["score"],
        f"{field}_head": pa.array([scored.head] * rows, pa.string()),
        EVENT_TIMESTAMP: pa.array([scored.moment] * rows, TIMESTAMP),
        CREATED: pa.array([now()] * rows, TIMESTAMP),
    }
    site.features.write_part(view, pa.table(columns), f"{scored.moment:%Y%m%dT%H%M%S%f}-{scored.head}")
    return site.features.materialize([view], scored.moment)[view]


def _older(site: Site, scenario: str) -> str:
    """The remedy of scoring as of the existing vectors' moment."""
    manifest = active_manifests(site.engine, [scenario]).get(scenario)
    if manifest is None or manifest.as_of is None:
        return "give the --as-of of the existing vectors"
    return f"give --as-of {manifest.as_of:%Y-%m-%dT%H:%M:%S}"


def _features(
    spec: FeatureSpec, site: Site, users: Sequence[str], store: Store, moment: datetime
) -> pa.Table:
    views = spec.views(site.workspace)
    if store == "online":
        features = [f"{view}:{name}" for view, names in views.items() for name in names]
        return site.features.online(users, features, at=moment)
    times = pa.array([moment] * len(users), TIMESTAMP)
    return site.features.training_frame(
        pa.table({USER_ID: pa.array(users, pa.string()), AS_OF: times}), list(views)
    )


def _refuse_unseen(spec: FeatureSpec, table: pa.Table) -> None:
    for name, values in spec.unseen(table).items():
        shown = ", ".join(repr(value) for value in list(values)[:3])
        raise FeaturesInvalid(
            f"column {name} holds {len(values)} value(s) that training did not have, in "
            f"{sum(values.values()):,} row(s): {shown}{', ...' if len(values) > 3 else ''}",
            "Train the head on labels that have them, or score them as missing with --unseen missing.",
        )


def _check_vectors(card: HeadCard, table: pa.Table) -> int:
    """The number of rows without a vector; broken vectors and those of another model are refused."""
    if not card.width:
        return 0
    refuse_broken_vectors(table, card.scenario)
    versions = table[model_version_column(card.scenario)]
    for version in pc.unique(versions.drop_null()).to_pylist():
        if version != card.model_version:
            raise FingerprintMismatch(
                f"vectors were written by model {version}, the head was fitted on {card.model_version}",
                f"Run `qanchor-cli backfill --scenario {card.scenario}`, then train the head again.",
            )
    return int(versions.null_count)


def _everybody(scenario: str, home: Home) -> list[str]:
    folder = home.view(embedding_view(scenario))
    files = sorted(str(path) for path in folder.glob("*.parquet")) if folder.exists() else []
    users = sorted(pc.unique(pads.dataset(files).to_table([USER_ID])[USER_ID]).to_pylist()) if files else []
    if not users:
        raise NotReady(
            f"there are no embeddings of {scenario!r} yet",
            f"Run `qanchor-cli backfill --scenario {scenario}`.",
        )
    return [str(user) for user in users]


def score_shift(site: Site, scenario: str, users: Sequence[str], old: Vectors, new: Vectors) -> float | None:
    """How far a scenario's champion moves between two sets of vectors of one space.

    Activity and profile are those of the vectors in service, both times: what moves is due to the vectors
    alone.

    Args:
        site: feature repository, home, registry, workspace.
        scenario: name of the scenario.
        users: ids of the users.
        old: their vectors in service, float32 [users, width].
        new: their new vectors, float32 [users, width].

    Returns:
        PSI of the scores; None where no head can be read, or it reads no vectors of the space in service.
    """
    manifest = active_manifests(site.engine, [scenario]).get(scenario)
    if manifest is None or manifest.as_of is None:
        return None
    try:
        head = load_head(site, scenario)
    except (NotReady, CheckpointInvalid) as error:
        log.warning("no score shift scenario=%s reason=%s", scenario, error.problem)
        return None
    if not head.card.width or head.card.fingerprint != manifest.fingerprint:
        return None
    sample = list(users[:_SHIFT_USERS])
    times = pa.array([as_utc(manifest.as_of)] * len(sample), TIMESTAMP)
    rows = pa.table({USER_ID: pa.array(sample, pa.string()), AS_OF: times})
    table = site.features.training_frame(rows, list(head.card.spec.views(site.workspace)))
    before, after = (_scores(head, scenario, table, vectors[:_SHIFT_USERS]) for vectors in (old, new))
    return psi(before, after)


def _scores(head: LoadedHead, scenario: str, table: pa.Table, vectors: Vectors) -> NDArray[np.float64]:
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1), pa.float32())
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    name = embedding_field(scenario)
    return head.score(table.set_column(table.column_names.index(name), name, column))
