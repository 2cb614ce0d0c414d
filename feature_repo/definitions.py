"""Feast's view of the workspace: everything here follows from modalities.yaml and scenarios.yaml.

`feast apply` executes this file; it serves any workspace unchanged. To add a scenario, edit scenarios.yaml.
"""

from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Float32, Float64, Int64, String, UnixTimestamp

from qanchor import names
from qanchor.home import Home
from qanchor.site import Site
from qanchor.storage.spaces import read_fingerprints, vector_widths
from qanchor.workspace import Workspace

TYPES = {"text": String, "number": Float64}
USER = Entity(name="user", join_keys=[names.USER_ID], value_type=ValueType.STRING, description="one user")


def define(workspace: Workspace, home: Home) -> dict[str, object]:
    """Every Feast object of a workspace, by name."""
    window = timedelta(days=workspace.window_days)
    embeddings = {scenario: _embedding_view(workspace, home, scenario) for scenario in workspace.scenarios}
    activity = [Field(name=name, dtype=Float64) for name in workspace.activity_columns]
    words = "counts, sums and days since the last event"
    shared = [_view(home, names.ACTIVITY_VIEW, activity, window, words)]
    if workspace.profile_columns:
        profile = [Field(name=name, dtype=TYPES[kind]) for name, kind in workspace.profile_columns.items()]
        shared.append(_view(home, names.PROFILE_VIEW, profile, window, "the newest profile event"))
    scores = [_score_view(workspace, home, scenario) for scenario in workspace.scenarios]
    services = [
        FeatureService(
            name=names.service_name(domain),
            # The vector alone: the other fields of an embedding view have the same name in each of them.
            features=[embeddings[s][[names.embedding_field(s)]] for s in workspace.domain(domain)] + shared,
            description=f"what a {domain} model reads",
        )
        for domain in names.DOMAINS
        if workspace.domain(domain)
    ]
    return {item.name: item for item in [USER, *embeddings.values(), *shared, *scores, *services]}


def _view(
    home: Home, name: str, fields: list[Field], ttl: timedelta, description: str, **tags: str
) -> FeatureView:
    return FeatureView(
        name=name,
        entities=[USER],
        schema=[Field(name=names.USER_ID, dtype=String), *fields],
        source=FileSource(
            name=names.parts_source(name),
            path=str(home.view(name)),
            file_format=ParquetFormat(),
            timestamp_field=names.EVENT_TIMESTAMP,
            created_timestamp_column=names.CREATED,
        ),
        ttl=ttl,
        description=description,
        tags=tags,
    )


def _embedding_view(workspace: Workspace, home: Home, scenario: str) -> FeatureView:
    spec, fingerprints = workspace.scenarios[scenario], read_fingerprints(home)
    vector = Field(
        name=names.embedding_field(scenario),
        dtype=Array(Float32),
        vector_index=True,
        vector_length=vector_widths(workspace, home)[scenario],
        vector_search_metric="COSINE",
        description=spec.query,
        # A changed tag of a field makes a new version of the view; a changed tag of the view does not.
        tags={"fingerprint": fingerprints[scenario]} if scenario in fingerprints else {},
    )
    facts = [
        Field(name=names.MODEL_VERSION, dtype=String),
        Field(name=names.N_EVENTS, dtype=Int64),
        Field(name=names.LAST_EVENT_TS, dtype=UnixTimestamp),
    ]
    ttl = timedelta(days=spec.ttl_days)
    view = names.embedding_view(scenario)
    return _view(home, view, [vector, *facts], ttl, spec.query, domain=spec.domain)


def _score_view(workspace: Workspace, home: Home, scenario: str) -> FeatureView:
    spec, field = workspace.scenarios[scenario], names.score_field(scenario)
    fields = [Field(name=field, dtype=Float64), Field(name=f"{field}_head", dtype=String)]
    words, window = f"what the head says: {spec.query}", timedelta(days=workspace.window_days)
    return _view(home, names.score_view(scenario), fields, window, words, domain=spec.domain)


# Feast collects the objects that it finds as attributes of this module.
_SITE = Site.of_repository(Path(__file__).parent)
globals().update(define(_SITE.workspace, _SITE.home))
