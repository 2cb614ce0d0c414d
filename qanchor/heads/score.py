"""`head score`: what a trained head says of users, from the online store or from the offline one."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from qanchor.errors import CheckpointInvalid, FingerprintMismatch, InputError, NotReady
from qanchor.heads.card import HeadCard, read_head
from qanchor.heads.fit import Calibration
from qanchor.heads.frame import FeatureSpec, model_version_column
from qanchor.heads.train import Surroundings, check_space
from qanchor.home import Home
from qanchor.names import AS_OF, USER_ID, embedding_view
from qanchor.registry.manifests import active_manifests
from qanchor.registry.versions import active_head

Store = Literal["online", "offline"]
_CHUNK = 20_000


@dataclass(frozen=True)
class LoadedHead:
    """A head as it was stored.

    Args:
        card: what it is.
        booster: lightgbm.Booster.
    """

    card: HeadCard
    booster: Any

    @property
    def spec(self) -> FeatureSpec:
        """The columns it reads."""
        card = self.card
        return FeatureSpec(card.scenario, card.width, card.numbers, card.categories)

    def score(self, table: pa.Table) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """Chance of label 1 for every row of a feature table, (rows,)."""
        raw = self.booster.predict(self.spec.matrix(table), raw_score=True)
        return Calibration(self.card.slope, self.card.intercept).probabilities(raw)


@dataclass(frozen=True)
class Scored:
    """Scores of users.

    Args:
        table: user_id, score in [0, 1], in the order asked for.
        store: where the features came from.
        moment: the moment that they are of; UTC.
        without_embedding: users scored without a vector, as one without history.
    """

    table: pa.Table
    store: Store
    moment: datetime
    without_embedding: int


def load_head(scenario: str, around: Surroundings) -> LoadedHead:
    """The head that serves a scenario, whole and unedited.

    Raises:
        UnknownScenario: scenarios.yaml does not name it.
        NotReady: none was trained yet; run `qanchor-cli head train`.
        CheckpointInvalid: a file is missing or was edited; train it again.
    """
    import lightgbm

    around.workspace.scenario(scenario)
    row = active_head(around.engine, scenario)
    card, text = read_head(around.home.root / row.path, str(row.metrics.get("card_hash")))
    try:
        booster = lightgbm.Booster(model_str=text)
    except lightgbm.basic.LightGBMError as error:
        raise CheckpointInvalid(
            f"the booster of head {row.version} cannot be read: {error}",
            f"Run `qanchor-cli head train --scenario {scenario}` again.",
        ) from error
    return LoadedHead(card, booster)


def score_users(
    scenario: str,
    around: Surroundings,
    users: Sequence[str] | None = None,
    store: Store = "online",
    moment: datetime | None = None,
) -> Scored:
    """Score users with a scenario's head.

    Args:
        scenario: its name.
        around: feature repository, home, registry, workspace.
        users: whom; default: everybody with a vector in the offline store.
        store: where to take the features from.
        moment: features as of then, so long as their time to live had not run out; default: now.

    Raises:
        UnknownScenario: scenarios.yaml does not name it.
        NotReady: there is no head, or the store holds no vector of these users.
        CheckpointInvalid: the head's files were edited.
        FingerprintMismatch: the store's vectors are of another embedding space than the head's.
    """
    head = load_head(scenario, around)
    if head.card.width:
        check_space(
            scenario,
            around.source,
            head.card.fingerprint,
            f"Run `qanchor-cli head train --scenario {scenario}` to fit a head on these vectors.",
        )
    asked = list(users) if users is not None else _everybody(scenario, around.home)
    when = moment or datetime.now(UTC)
    scores, without = [], 0
    for begin in range(0, len(asked), _CHUNK):
        table = _features(head.spec, around, asked[begin : begin + _CHUNK], store, when)
        without += _check_vectors(head.card, table)
        scores.append(head.score(table))
    if head.card.width and without == len(asked):
        raise NotReady(
            f"the {store} store holds no fresh vector of {scenario} for these {len(asked):,} users "
            f"at {when:%Y-%m-%d}",
            f"Run `qanchor-cli backfill --scenario {scenario}`, or {_older(scenario, around)}.",
        )
    result = pa.table({USER_ID: pa.array(asked, pa.string()), "score": np.concatenate(scores)})
    return Scored(result, store, when, without)


def _older(scenario: str, around: Surroundings) -> str:
    """How to score as of the vectors that there are."""
    manifest = active_manifests(around.engine, [scenario]).get(scenario)
    if manifest is None or manifest.as_of is None:
        return "give the --as-of of the vectors there are"
    return f"give --as-of {manifest.as_of:%Y-%m-%dT%H:%M:%S}"


def _features(
    spec: FeatureSpec, around: Surroundings, users: Sequence[str], store: Store, moment: datetime
) -> pa.Table:
    views = spec.views(around.workspace)
    if store == "online":
        wanted = [f"{view}:{name}" for view, names in views.items() for name in names]
        return around.source.online(users, wanted, at=moment)
    times = pa.array([moment] * len(users), pa.timestamp("us", tz="UTC"))
    return around.source.training_frame(
        pa.table({USER_ID: pa.array(users, pa.string()), AS_OF: times}), list(views)
    )


def _check_vectors(card: HeadCard, table: pa.Table) -> int:
    """Count rows without a vector and refuse those of another model."""
    if not card.width:
        return 0
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


def read_users(path: Path) -> list[str]:
    """The users of a file, in its order, each once.

    Args:
        path: .parquet or .csv with a column user_id, or .txt with one user a line.

    Raises:
        InputError: the file cannot be read, lacks the column or names nobody.
    """
    remedy = "Give a Parquet or CSV file with a column user_id, or a .txt with one user a line."
    try:
        if path.suffix == ".parquet":
            values = pq.read_table(path, columns=[USER_ID])[USER_ID].cast(pa.string()).to_pylist()
        elif path.suffix == ".csv":
            options = pacsv.ConvertOptions(column_types={USER_ID: pa.string()}, include_columns=[USER_ID])
            values = pacsv.read_csv(path, convert_options=options)[USER_ID].to_pylist()
        else:
            values = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, pa.ArrowException, UnicodeDecodeError, KeyError) as error:
        raise InputError(f"{path} cannot be read as users: {error}", remedy) from error
    users = list(dict.fromkeys(user for user in values if user))
    if not users:
        raise InputError(f"{path} names no user", remedy)
    return users


def write_scores(table: pa.Table, path: Path) -> None:
    """Write scores as Parquet, CSV or JSON by the file's extension, in one step.

    Raises:
        InputError: another extension.
    """
    if path.suffix not in (".parquet", ".csv", ".json"):
        raise InputError(f"{path.name} is none of .parquet, .csv and .json", "Name the --out file so.")
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.tmp")
    try:
        if path.suffix == ".parquet":
            pq.write_table(table, staged)
        elif path.suffix == ".csv":
            pacsv.write_csv(table, staged)
        else:
            table.to_pandas().to_json(staged, orient="records", indent=1)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
