"""Random users for the timing of heads: vectors and a hundred other features in a feature repository."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qanchor.home import Home
from qanchor.names import ACTIVITY_VIEW, EMBEDDING_WIDTH, PROFILE_VIEW, embedding_view
from qanchor.site import Site
from qanchor.storage.features import FeatureRepository
from qanchor.times import TIMESTAMP
from qanchor.workspace import FieldSpec, ModalitySpec, ScenarioSpec, Workspace

SCENARIO = "risk"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
_FINGERPRINT = "f" * 32


@dataclass(frozen=True)
class HeadWorld:
    """A home with labels and features, ready for `train_head`.

    Args:
        site: site of the home.
        features: number of columns without the vector.
    """

    site: Site
    features: int


def make_world(root: Path, users: int, seed: int = 0) -> HeadWorld:
    """A world whose labels depend on some of the features.

    Args:
        root: empty folder.
        users: number of users, each with one label.
        seed: seed of every draw.
    """
    from qanchor.registry.migrate import prepare
    from qanchor.registry.session import open_engine

    workspace, home = _workspace(root), Home(root / "home")
    url = f"sqlite:///{home.root / 'qanchor.db'}"
    engine = open_engine(url)
    prepare(engine, url)
    site = Site.at(workspace, home, engine)
    random = np.random.default_rng(seed)
    ids = [f"u{number:06d}" for number in range(users)]
    hidden = _write_features(site, ids, random)
    chances = 1 / (1 + np.exp(1.6 - hidden))
    _load_labels(site, root, ids, (random.random(users) < chances).astype(np.int8))
    _add_manifest(site, users)
    features = len(workspace.activity_columns) + len(workspace.profile_columns)
    return HeadWorld(site, features)


def _workspace(root: Path) -> Workspace:
    """Ten modalities with nine aggregates each, a profile with five more and five fields: 100 features."""
    amount = {"amount": FieldSpec(type="number", amount=True)}
    modalities = {f"kind_{number}": ModalitySpec(text="", fields=amount) for number in range(10)}
    fields = {name: FieldSpec(type="number") for name in ("age", "limit", "tenure")}
    fields |= {name: FieldSpec(type="text") for name in ("city", "job")}
    modalities["profile"] = ModalitySpec(text="{city} {job}", fields=fields, profile=True)
    scenario = ScenarioSpec(domain="risk", query="Will it happen at all?")
    return Workspace(root / "feature_repo", 90, modalities, {SCENARIO: scenario})


def _write_features(
    site: Site, ids: list[str], random: np.random.Generator
) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Write rows of all views an hour before the labels; returns the signal that the labels depend on."""
    source, users = FeatureRepository(site.workspace, site.home), len(ids)
    moments = pa.array([NOON - timedelta(hours=1)] * users, TIMESTAMP)
    keys = {"user_id": pa.array(ids), "event_timestamp": moments, "created": moments}
    vectors = random.normal(size=(users, EMBEDDING_WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    offsets = pa.array(np.arange(users + 1) * EMBEDDING_WIDTH, pa.int32())
    embedding = {
        f"emb_{SCENARIO}": pa.ListArray.from_arrays(offsets, pa.array(vectors.ravel())),
        "model_version": pa.array(["m1"] * users),
        "n_events": pa.array([3] * users),
        "last_event_ts": pa.array([NOON - timedelta(hours=2)] * users, TIMESTAMP),
    }
    source.write_part(embedding_view(SCENARIO), pa.table(keys | embedding), "rows")
    activity = {name: random.lognormal(size=users) for name in site.workspace.activity_columns}
    source.write_part(ACTIVITY_VIEW, pa.table(keys | activity), "rows")
    profile = {
        name: random.normal(size=users)
        if kind == "number"
        else random.choice(np.array(["east", "north", "south", "west"], dtype=object), users)
        for name, kind in site.workspace.profile_columns.items()
    }
    source.write_part(PROFILE_VIEW, pa.table(keys | profile), "rows")
    signal = 9.0 * vectors[:, :8].sum(axis=1) + np.log(activity["act_kind_0_sum_7d"]) + profile["prof_limit"]
    return np.asarray(signal, dtype=np.float64)


def _load_labels(
    site: Site, root: Path, ids: list[str], truth: "np.ndarray[tuple[int], np.dtype[np.int8]]"
) -> None:
    from qanchor.events.labels import LabelLoader

    columns = {"user_id": ids, "as_of": [NOON] * len(ids), "label": truth, "fold": np.arange(len(ids)) % 5}
    pq.write_table(pa.table(columns), root / "labels.parquet")
    LabelLoader(site.home, site.engine, site.workspace).load(root / "labels.parquet", SCENARIO)


def _add_manifest(site: Site, users: int) -> None:
    from qanchor.registry.manifests import activate_manifests, begin_manifest, note_manifest
    from qanchor.registry.tables import EmbeddingManifest, ModelVersion, utc_now
    from qanchor.registry.versions import register_model

    model = ModelVersion(
        version="m1",
        preset="tiny",
        path="models/m1",
        content_hash="0" * 64,
        trained_until=utc_now(),
        metrics={},
    )
    register_model(site.engine, model)
    manifest = EmbeddingManifest(
        scenario=SCENARIO,
        model_version="m1",
        prompt_version=None,
        fingerprint=_FINGERPRINT,
        rows=users,
        content_hash="0" * 64,
        path=f"features/{embedding_view(SCENARIO)}",
    )
    manifest = begin_manifest(site.engine, manifest)
    note_manifest(site.engine, manifest, rows=users, content_hash="0" * 64)
    activate_manifests(site.engine, {manifest.scenario: manifest})
    FeatureRepository(site.workspace, site.home).set_fingerprint(SCENARIO, _FINGERPRINT)
