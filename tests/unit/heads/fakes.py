"""A small workspace with labels, registry rows and a feature repository that is a dictionary."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qanchor.events.labels import LabelLoader
from qanchor.heads.fit import FitOptions
from qanchor.heads.train import TrainOptions
from qanchor.home import Home
from qanchor.names import USER_ID, embedding_field, embedding_view
from qanchor.registry.manifests import begin_manifest
from qanchor.registry.session import open_engine, transaction
from qanchor.registry.tables import Base, EmbeddingManifest, ModelVersion, PromptVersion, utc_now
from qanchor.site import Site
from qanchor.storage.features import FeatureRepository
from qanchor.workspace import FieldSpec, ModalitySpec, ScenarioSpec, Workspace
from tests.unit.registry.rows import activate_manifest, model

SCENARIO = "risk"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FAST = TrainOptions(fit=FitOptions(rounds=30, patience=10))
WIDTH = 8
_TIME = pa.timestamp("us", tz="UTC")


@dataclass
class FakeSource:
    """Feature rows by user; every time sees the same ones."""

    columns: dict[str, list[object]]
    users: list[str]
    fingerprints: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    moments: dict[str, Callable[[pa.Table], list[datetime | None]]] = field(default_factory=dict)

    def _of(self, users: Sequence[str], names: Sequence[str]) -> dict[str, pa.Array]:
        places = {user: place for place, user in enumerate(self.users)}
        return {
            name: pa.array(
                [self.columns[name][places[user]] if user in places else None for user in users],
                self._kind(name),
            )
            for name in names
        }

    def _kind(self, name: str) -> pa.DataType:
        if name.startswith("emb_"):
            return pa.list_(pa.float32(), WIDTH)
        if name.endswith("_ts"):
            return pa.timestamp("us", tz="UTC")
        return pa.float64() if name.startswith("act_") or name == "prof_limit" else pa.string()

    def training_frame(self, labels: pa.Table, views: Sequence[str], times: bool = False) -> pa.Table:
        self.asked.extend(views)
        if times:
            for view, moments in self.moments.items():
                labels = labels.append_column(f"{view}__event_timestamp", pa.array(moments(labels), _TIME))
        for name, values in self._of(labels[USER_ID].to_pylist(), list(self.columns)).items():
            labels = labels.append_column(name, values)
        return labels

    def online(
        self, user_ids: Sequence[str], features: Sequence[str], at: datetime | None = None
    ) -> pa.Table:
        self.asked.extend(features)
        return pa.table({USER_ID: pa.array(list(user_ids))} | self._of(user_ids, list(self.columns)))

    def fingerprint(self, scenario: str) -> str | None:
        return self.fingerprints.get(scenario)


@dataclass
class World:
    """Everything that a head needs, small."""

    site: Site
    source: FakeSource
    truth: NDArray[np.int64]


def small_workspace(root: Path, scenarios: Sequence[str] = (SCENARIO,)) -> Workspace:
    """One modality with an amount, a profile, and the scenarios asked for."""
    bill = ModalitySpec(text="", fields={"amount": FieldSpec(type="number", amount=True)})
    profile = ModalitySpec(
        text="{city}",
        profile=True,
        fields={"city": FieldSpec(type="text"), "limit": FieldSpec(type="number")},
    )
    spec = ScenarioSpec(domain="risk", query="Will it happen at all?")
    return Workspace(root, 90, {"bill": bill, "profile": profile}, dict.fromkeys(scenarios, spec))


def small_world(root: Path, rows: int = 240, folds: bool = True, seed: int = 0) -> World:
    """Labels of one scenario whose embedding knows most, whose aggregates know little."""
    workspace, home = small_workspace(root), Home(root / "home")
    engine = open_engine(f"sqlite:///{root / 'home' / 'qanchor.db'}")
    Base.metadata.create_all(engine)
    random = np.random.default_rng(seed)
    users = [f"u{i:04d}" for i in range(rows)]
    truth = (random.random(rows) < 0.3).astype(np.int64)
    file = root / "labels.parquet"
    table = pa.table({"user_id": users, "as_of": [NOON] * rows, "label": truth})
    if folds:
        table = table.append_column("fold", pa.array(np.arange(rows) % 5))
    pq.write_table(table, file)
    LabelLoader(home, engine, workspace).load(file, SCENARIO)
    source = FakeSource(_columns(workspace, truth, random), users, {SCENARIO: "f" * 32})
    return World(Site.at(workspace, home, engine, cast(FeatureRepository, source)), source, truth)


def _columns(
    workspace: Workspace, truth: NDArray[np.int64], random: np.random.Generator
) -> dict[str, list[object]]:
    rows = len(truth)
    vectors = random.normal(size=(rows, WIDTH)).astype(np.float32)
    vectors[:, 0] += 2.0 * truth
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    columns: dict[str, list[object]] = {
        embedding_field(SCENARIO): [row.tolist() for row in vectors],
        f"{embedding_view(SCENARIO)}__model_version": ["m1"] * rows,
    }
    for name in workspace.activity_columns:
        columns[name] = (random.lognormal(size=rows) + 0.1 * truth).tolist()
    columns["prof_city"] = random.choice(["east", "west"], rows).tolist()
    columns["prof_limit"] = random.normal(size=rows).tolist()
    return columns


def add_manifest(
    world: World, prompt_fold: int | None = None, fingerprint: str = "f" * 32, scenario: str = SCENARIO
) -> None:
    """Registry rows of a model, a prompt where a fold is given, and the active manifest."""
    engine = world.site.engine
    with transaction(engine) as session:
        if session.get(ModelVersion, "m1") is None:
            session.add(model(content_hash="0" * 64, trained_until=utc_now()))
            session.flush()
        if prompt_fold is not None:
            session.add(
                PromptVersion(
                    version="p1",
                    scenario=scenario,
                    model_version="m1",
                    path="models/m1/prompts/p1",
                    content_hash="0" * 64,
                    test_fold=prompt_fold,
                    metrics={},
                )
            )
    manifest = EmbeddingManifest(
        scenario=scenario,
        model_version="m1",
        prompt_version="p1" if prompt_fold is not None else None,
        fingerprint=fingerprint,
        rows=len(world.truth),
        content_hash="0" * 64,
        path=f"features/{embedding_view(scenario)}",
    )
    activate_manifest(engine, begin_manifest(engine, manifest), len(world.truth), "0" * 64)
