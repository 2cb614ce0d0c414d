"""`head score`: what a trained head says of users, from the online store or from the offline one."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from numpy.typing import NDArray

from qanchor.errors import FeaturesInvalid, FingerprintMismatch, NotReady
from qanchor.heads.boosters import Boosters
from qanchor.heads.card import HeadCard, read_boosters, read_card
from qanchor.heads.frame import model_version_column
from qanchor.heads.spec import FeatureSpec, refuse_broken_vectors
from qanchor.heads.train import check_space
from qanchor.home import Home
from qanchor.names import AS_OF, CREATED, EVENT_TIMESTAMP, USER_ID, embedding_view, score_field, score_view
from qanchor.registry.manifests import active_manifests
from qanchor.registry.tables import Head
from qanchor.registry.versions import active_head, list_heads
from qanchor.site import Site
from qanchor.threads import thread_count

Store = Literal["online", "offline"]
Unseen = Literal["refuse", "missing"]
_CHUNK = 20_000
_PIECE = 10_000


@dataclass(frozen=True)
class LoadedHead:
    """A head as it was stored.

    Args:
        card: what it is.
        boosters: whose raw scores are averaged.
        folder: where its files lie.
    """

    card: HeadCard
    boosters: Boosters
    folder: Path

    def raw(self, table: pa.Table) -> NDArray[np.float64]:
        """Raw score of every row of a feature table, (rows,)."""
        if table.num_rows <= _PIECE:
            return self.boosters.raw(self.card.spec.matrix(table))

        def score_piece(begin: int) -> NDArray[np.float64]:
            return self.boosters.raw(self.card.spec.matrix(table.slice(begin, _PIECE)), threads=1)

        # A piece's matrix stays in the cache, and building it takes both cores as predicting does.
        with ThreadPoolExecutor(thread_count()) as pool:
            return np.concatenate(list(pool.map(score_piece, range(0, table.num_rows, _PIECE))))

    def score(self, table: pa.Table) -> NDArray[np.float64]:
        """Chance of label 1 for every row of a feature table, (rows,)."""
        return self.card.calibration.probabilities(self.raw(table))


@dataclass(frozen=True)
class ScoreRequest:
    """Whom to score, and on what.

    Args:
        users: whom; None: everybody with a vector in the offline store.
        store: where to take the features from.
        moment: features as of then, so long as their time to live had not run out; None: now.
        unseen: what to do with category values that training did not have.
    """

    users: Sequence[str] | None = None
    store: Store = "online"
    moment: datetime | None = None
    unseen: Unseen = "refuse"


@dataclass(frozen=True)
class Scored:
    """Scores of users.

    Args:
        table: user_id, score in [0, 1], in the order asked for.
        head: version of the head that gave them.
        store: where the features came from.
        moment: the moment that they are of; UTC.
        without_embedding: users scored without a vector, as one without history.
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
        version: of the head; default: the champion.

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
        NotReady: there is none, or more than one begins so; the message lists those there are.
    """
    heads = list_heads(site.engine, scenario)
    found = [head for head in heads if head.version.startswith(version)]
    if len(found) != 1:
        known = ", ".join(head.version for head in heads[:5]) or "none"
        problem = "has no head" if not found else f"has {len(found)} heads"
        raise NotReady(f"{scenario} {problem} {version!r}", f"Heads there are: {known}.")
    return found[0]


def score_users(site: Site, scenario: str, request: ScoreRequest | None = None) -> Scored:
    """Score users with a scenario's champion.

    Args:
        site: feature repository, home, registry, workspace.
        scenario: name of the scenario.
        request: whom, on what; default: everybody, online, now.

    Raises:
        UnknownScenario: scenarios.yaml does not name it.
        NotReady: there is no head, or the store holds no vector of these users.
        CheckpointInvalid: the head's files were edited.
        FingerprintMismatch: the store's vectors are of another embedding space than the head's.
        FeaturesInvalid: a vector holds NaN, or a category is new; the message names row or column.
    """
    asked = request or ScoreRequest()
    head = load_head(site, scenario)
    if head.card.width:
        check_space(
            site,
            scenario,
            head.card.fingerprint,
            f"Run `qanchor-cli head train --scenario {scenario}` to fit a head on these vectors.",
        )
    users = list(asked.users) if asked.users is not None else _everybody(scenario, site.home)
    when = asked.moment or _now()
    scores, without = [], 0
    for begin in range(0, len(users), _CHUNK):
        table = _features(head.card.spec, site, users[begin : begin + _CHUNK], asked.store, when)
        without += _check_vectors(head.card, table)
        if asked.unseen == "refuse":
            _refuse_unseen(head.card.spec, table)
        scores.append(head.score(table))
    if head.card.width and without == len(users):
        raise NotReady(
            f"the {asked.store} store holds no fresh vector of {scenario} for these {len(users):,} users "
            f"at {when:%Y-%m-%d}",
            f"Run `qanchor-cli backfill --scenario {scenario}`, or {_older(site, scenario)}.",
        )
    result = pa.table({USER_ID: pa.array(users, pa.string()), "score": np.concatenate(scores)})
    return Scored(result, head.card.version, asked.store, when, without)


def publish_scores(site: Site, scenario: str, scored: Scored) -> int:
    """Put scores in service as features of their own: offline with their moment, online through Feast.

    A row's `event_timestamp` is the moment that its features are of, `created` is now: no label before now
    can be joined to it. Scoring again with the same head at the same moment replaces the rows.

    Args:
        site: offline and online store.
        scenario: name of the scenario.
        scored: scores to publish.

    Returns:
        Users that the online store holds scores of.

    Raises:
        NotReady: Feast does not know the view; run `feast apply` with the template's definitions.py.
        FeaturesInvalid: a user stands in the scores twice.
    """
    users = scored.table[USER_ID]
    if pc.count_distinct(users).as_py() != len(users):
        raise FeaturesInvalid("a user stands in the scores twice", "Score each user once.")
    field, view, rows = score_field(scenario), score_view(scenario), scored.table.num_rows
    moments = (pa.array([moment] * rows, pa.timestamp("us", tz="UTC")) for moment in (scored.moment, _now()))
    columns = {
        USER_ID: users,
        field: scored.table["score"],
        f"{field}_head": pa.array([scored.head] * rows, pa.string()),
        **dict(zip((EVENT_TIMESTAMP, CREATED), moments, strict=True)),
    }
    site.features.write_part(view, pa.table(columns), f"{scored.moment:%Y%m%dT%H%M%S%f}-{scored.head}")
    return site.features.materialize([view], scored.moment)[view]


def _now() -> datetime:
    return datetime.now(UTC)


def _older(site: Site, scenario: str) -> str:
    """How to score as of the vectors that there are."""
    manifest = active_manifests(site.engine, [scenario]).get(scenario)
    if manifest is None or manifest.as_of is None:
        return "give the --as-of of the vectors there are"
    return f"give --as-of {manifest.as_of:%Y-%m-%dT%H:%M:%S}"


def _features(
    spec: FeatureSpec, site: Site, users: Sequence[str], store: Store, moment: datetime
) -> pa.Table:
    views = spec.views(site.workspace)
    if store == "online":
        wanted = [f"{view}:{name}" for view, names in views.items() for name in names]
        return site.features.online(users, wanted, at=moment)
    times = pa.array([moment] * len(users), pa.timestamp("us", tz="UTC"))
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
    """Count rows without a vector; refuse those of another model and broken ones."""
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
