"""Rows as the commands write them."""

from datetime import datetime
from typing import Any

from sqlalchemy import Engine

from qanchor.registry.manifests import activate_manifests, note_manifest
from qanchor.registry.tables import EmbeddingManifest, Head, IndexVersion, ModelVersion, PromptVersion

NOON = datetime(2026, 1, 1, 12)


def activate_manifest(engine: Engine, manifest: EmbeddingManifest, rows: int, content_hash: str) -> None:
    """Make one complete set of vectors visible."""
    note_manifest(engine, manifest, rows=rows, content_hash=content_hash)
    activate_manifests(engine, {manifest.scenario: manifest})


def model(version: str = "m1", **changes: Any) -> ModelVersion:
    """A model."""
    values = {
        "preset": "tiny",
        "path": f"models/{version}",
        "content_hash": version,
        "trained_until": NOON,
        "metrics": {},
    }
    return ModelVersion(version=version, **{**values, **changes})


def prompt(version: str, scenario: str = "money", model_version: str = "m1") -> PromptVersion:
    """A prompt."""
    return PromptVersion(
        version=version,
        scenario=scenario,
        model_version=model_version,
        path=f"models/{model_version}/prompts/{version}",
        content_hash=version,
        test_fold=None,
        metrics={},
    )


def manifest(scenario: str = "money", **changes: Any) -> EmbeddingManifest:
    """A manifest of two rows."""
    values = {
        "model_version": "m1",
        "fingerprint": "f1",
        "as_of": NOON,
        "rows": 2,
        "content_hash": "",
        "path": "",
    }
    return EmbeddingManifest(scenario=scenario, **{**values, **changes})


def index(version: str, manifest_id: int, scenario: str = "money") -> IndexVersion:
    """An index."""
    return IndexVersion(
        version=version,
        scenario=scenario,
        manifest_id=manifest_id,
        fingerprint="f1",
        kind="flat",
        path=f"indexes/{scenario}/{version}",
        rows=2,
        recall=1.0,
    )


def head(version: str, scenario: str = "money", **changes: Any) -> Head:
    """A head."""
    values = {"fingerprint": "f1", "path": "heads/x", "metrics": {"test": {"head": {"auc": 0.75}}}}
    return Head(version=version, scenario=scenario, **{**values, **changes})
