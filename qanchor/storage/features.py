"""The feature store of a workspace: Feast's registry and online store, part files as the offline store.

The only module besides its plug-ins that imports feast, and only inside functions: the import takes seconds.
"""

import contextlib
import importlib.util
import io
import logging
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import yaml

from qanchor import names
from qanchor.errors import FeaturesInvalid, NotReady, StateError, did_you_mean
from qanchor.home import Home
from qanchor.shipped import template_folder
from qanchor.storage import parts
from qanchor.storage.point_in_time import latest_rows, read_rows, rows_as_of
from qanchor.storage.spaces import ServedSpace, read_fingerprints, vector_widths, write_space
from qanchor.times import EPOCH, TIMESTAMP, as_utc
from qanchor.workspace import Workspace

if TYPE_CHECKING:
    import feast

log = logging.getLogger(__name__)

_KEYS = (names.USER_ID, names.EVENT_TIMESTAMP, names.CREATED)
# Every embedding view has these, so a frame names them as Feast's full feature names do.
_SHARED = (names.MODEL_VERSION, names.N_EVENTS, names.LAST_EVENT_TS, names.EVENT_TIMESTAMP)
_PROBED_USERS = 100


class FeatureRepository:
    """Feast for one workspace and home.

    Args:
        workspace: names the views.
        home: folder of their state.
    """

    def __init__(self, workspace: Workspace, home: Home) -> None:
        self.workspace = workspace
        self.home = home
        self._schemas = parts.view_schemas(workspace)

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the workspace's views."""
        return tuple(self._schemas)

    def ttl(self, view: str) -> timedelta:
        """How old a row of the view may be when it is joined or served."""
        for scenario, spec in self.workspace.scenarios.items():
            if names.embedding_view(scenario) == view:
                return timedelta(days=spec.ttl_days)
        return timedelta(days=self.workspace.window_days)

    def _schema(self, view: str) -> pa.Schema:
        if view not in self._schemas:
            hint = did_you_mean(view, self._schemas)
            raise FeaturesInvalid(
                f"there is no feature view {view!r}", f"{hint}Views: {', '.join(self._schemas)}."
            )
        return self._schemas[view]

    @cached_property
    def store(self) -> "feast.FeatureStore":
        """Feast's store, on feature_store.yaml of the repository or of the shipped template.

        Feast's variable FEAST_FS_YAML_FILE_PATH points to another profile.
        """
        from feast import FeatureStore, RepoConfig
        from feast.utils import get_default_yaml_file_path

        path = get_default_yaml_file_path(self.workspace.repo)
        if not path.exists():
            path = template_folder() / "feature_store.yaml"
        content = yaml.safe_load(os.path.expandvars(path.read_text(encoding="utf-8")))
        online = content["online_store"]
        if isinstance(online, dict) and ".Guarded" in online["type"]:
            # Here each read passes the moment that the time to live is judged by.
            online["ttl_on_read"] = False
        with _quiet():
            from qanchor.storage.feast_ext.home import HOME_KEY

            content[HOME_KEY] = str(self.home.root)
            return FeatureStore(config=RepoConfig(**content, repo_path=self.workspace.repo))

    def close(self) -> None:
        """Give the database files back."""
        if "store" in self.__dict__:
            online = self.store._get_provider().online_store
            if hasattr(online, "release"):
                online.release()
            for name in ("read_engine", "write_engine"):
                engine = getattr(self.store.registry, name, None)
                if engine is not None:
                    engine.dispose()
            del self.__dict__["store"]

    def apply(self) -> list[str]:
        """Register what definitions.py defines and delete what it no longer does, as `feast apply` does.

        Returns:
            Names of the feature views.
        """
        from feast.project import Project
        from feast.repo_contents import RepoContents
        from feast.repo_operations import extract_objects_for_apply_delete

        objects = list(self._definitions().values())
        views = _of_kind(objects, "FeatureView")
        contents = RepoContents(
            projects=[Project(name=self.store.project)],
            data_sources=[view.batch_source for view in views],
            entities=_of_kind(objects, "Entity"),
            feature_views=views,
            feature_services=_of_kind(objects, "FeatureService"),
            on_demand_feature_views=_of_kind(objects, "OnDemandFeatureView"),
            stream_feature_views=_of_kind(objects, "StreamFeatureView"),
            label_views=[],
            permissions=[],
        )
        with _quiet():
            changed, gone, _, _ = extract_objects_for_apply_delete(
                self.store.project, self.store.registry, contents
            )
            self.store.apply(changed, objects_to_delete=gone, partial=False)
        return [view.name for view in views]

    def _definitions(self) -> dict[str, Any]:
        path = self.workspace.repo / "definitions.py"
        is_edited = path.exists()
        if not is_edited:
            path = template_folder() / "definitions.py"
        spec = importlib.util.spec_from_file_location("qanchor_definitions", path)
        if spec is None or spec.loader is None:
            raise NotReady(f"{path} cannot be read", "Create a new repository with `qanchor-cli new DIR`.")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        written = dict(vars(module)) if is_edited else {}
        # The file locates the home by the environment; this object has the home.
        define = getattr(module, "define", None)
        return {**written, **(define(self.workspace, self.home) if define else {})}

    def set_fingerprint(self, scenario: str, fingerprint: str, width: int = names.EMBEDDING_WIDTH) -> None:
        """Record the space and width of a scenario's vectors; `apply` puts them in the view."""
        self.workspace.scenario(scenario)
        write_space(self.home, scenario, ServedSpace(fingerprint, width))

    def fingerprint(self, scenario: str) -> str | None:
        """The embedding space of a scenario's vectors, or None before the first ones."""
        self.workspace.scenario(scenario)
        return read_fingerprints(self.home).get(scenario)

    def write_part(self, view: str, table: pa.Table, part: str) -> Path:
        """Write rows of a view to the offline store; a part of the same name is replaced.

        Args:
            view: a name of `views`.
            table: every column of the view, in any order.
            part: the part's name, such as a date or a manifest's id.

        Returns:
            The file.

        Raises:
            FeaturesInvalid: there is no such view, or the rows are invalid: a null key or time, a vector
                that is null, not finite or of the wrong width.
        """
        schema = self._schema(view)
        widths = vector_widths(self.workspace, self.home)
        expected = {names.embedding_view(scenario): width for scenario, width in widths.items()}
        rows = parts.conform(table, schema, view, expected.get(view, names.EMBEDDING_WIDTH))
        parts.ensure_part(self.home.view(view), schema)
        return parts.write_part(self.home.view(view), rows, part)

    def remove_parts(self, view: str, keep: set[str]) -> None:
        """Delete every part of a view that is not named in `keep`."""
        self._schema(view)
        parts.remove_parts(self.home.view(view), keep)

    def materialize(self, views: Sequence[str], end: datetime) -> dict[str, int]:
        """Bring the newest row of every user up to a moment into the online store.

        Args:
            views: names of `views`.
            end: last event_timestamp that counts; UTC where it has no zone.

        Returns:
            Users written, by view.

        Raises:
            NotReady: a view is not applied; run `feast apply`.
            StateError: the online store lacks rows that the offline store has; look at `batch_engine`.
        """
        end = as_utc(end)
        due = {view: self._newest_rows(view, end) for view in views}
        with _quiet(), views_applied():
            self.store.materialize(EPOCH, end, feature_views=list(views))
        for view, rows in due.items():
            # Feast's engines report success without a row written (Ray, with a vector index).
            probed = rows.take(np.linspace(0, len(rows) - 1, min(len(rows), _PROBED_USERS)).astype(np.int64))
            behind = self._count_behind(view, probed)
            if behind:
                raise StateError(
                    f"{view} has {len(rows)} users offline; of {len(probed)} probed, {behind} are not"
                    " served what they have there",
                    "Look at batch_engine in feature_store.yaml.",
                )
            log.info("materialized view=%s users=%d end=%s", view, len(rows), end.isoformat())
        return {view: len(rows) for view, rows in due.items()}

    def clear_online(self, view: str) -> None:
        """Empty a view in the online store; until it is materialized again its users are unknown there."""
        self._schema(view)
        with _quiet(), views_applied():
            table = self.store.get_feature_view(view)
            online = self.store._get_provider().online_store
            if hasattr(online, "clear"):
                online.clear(self.store.config, table)
                return
            # Feast's stores have no other way to forget a view's rows than to drop and create it again.
            none: list[Any] = []
            online.update(self.store.config, [table], none, none, none, partial=True)
            online.update(self.store.config, none, [table], none, none, partial=True)

    def _newest_rows(self, view: str, end: datetime) -> pa.Table:
        """User and event_timestamp of the newest row of each user."""
        self._schema(view)
        rows = latest_rows(self.home.view(view), EPOCH, end, timedelta(0))
        return read_rows(rows, pa.schema({names.USER_ID: pa.string(), names.EVENT_TIMESTAMP: TIMESTAMP}))

    def _count_behind(self, view: str, rows: pa.Table) -> int:
        """Number of these rows of which the online store has neither this version nor a newer one."""
        if not len(rows):
            return 0
        field = next(name for name in self._schema(view).names if name not in _KEYS)
        response = self._read_online([f"{view}:{field}"], rows[names.USER_ID].to_pylist())
        # Whole seconds, which are all that some stores keep; 0 where there is no row.
        served = [moment.seconds for moment in response.results[-1].event_timestamps]
        expected = [int(moment.timestamp()) for moment in rows[names.EVENT_TIMESTAMP].to_pylist()]
        return sum(has < due for has, due in zip(served, expected, strict=True))

    def _read_online(self, features: Sequence[str], users: Sequence[str]) -> Any:
        with _quiet(), views_applied():
            rows = {names.USER_ID: list(users)}
            return self.store.get_online_features(list(features), rows, full_feature_names=True).proto

    def online(
        self, user_ids: Sequence[str], features: Sequence[str], at: datetime | None = None
    ) -> pa.Table:
        """The online store's values for users, one row each in their order.

        Args:
            user_ids: users; unknown ones get nulls.
            features: "view:field" each.
            at: moment that the time to live is judged by; default: now.

        Returns:
            user_id and one column for each feature, named as training_frame names them; vectors as
            fixed-size lists of float32. Null where there is no row or it is too old.

        Raises:
            NotReady: a view is not applied; run `feast apply`.
            FeaturesInvalid: a view or field does not exist.
        """
        requested = [self._feature(feature) for feature in features]
        columns: dict[str, pa.Array] = {names.USER_ID: pa.array(list(user_ids), pa.string())}
        response = self._read_online(features, user_ids) if user_ids else None
        now = (datetime.now(UTC) if at is None else as_utc(at)).timestamp()
        served = vector_widths(self.workspace, self.home)
        widths = {names.embedding_field(scenario): width for scenario, width in served.items()}
        for view, field in requested:
            values: list[Any] = []
            if response is not None:
                index = list(response.metadata.feature_names.val).index(f"{view}__{field.name}")
                values = _fresh(response.results[index], now - self.ttl(view).total_seconds())
            columns[_column(view, field.name)] = _served(values, field, widths.get(field.name, 0))
        return pa.table(columns)

    def _feature(self, feature: str) -> tuple[str, pa.Field]:
        view, _, name = feature.partition(":")
        schema = self._schema(view)
        if name not in schema.names or name in _KEYS:
            known = _features(schema).names
            raise FeaturesInvalid(
                f"view {view!r} has no feature {name!r}", f"{did_you_mean(name, known)}Features: {known}."
            )
        return view, schema.field(name)

    def training_frame(self, labels: pa.Table, views: Sequence[str], times: bool = False) -> pa.Table:
        """Labels with the features that were known at their times.

        For each label the newest row of its user with event_timestamp <= as_of, created <= as_of and
        as_of <= event_timestamp + ttl: what Feast's get_historical_features joins, straight to float32.

        Args:
            labels: user_id, as_of (UTC where it has no zone) and any other columns.
            views: names of `views`.
            times: whether each view's event_timestamp, the moment its features are of, is a column too.

        Returns:
            Every label row in its order with its columns, then each view's features; null where there was
            none. Vectors are fixed-size lists of float32. `model_version`, `n_events`, `last_event_ts`,
            which every embedding view has, and event_timestamp are named VIEW__FIELD.

        Raises:
            NotReady: a view is not applied; run `feast apply`.
            FeaturesInvalid: there is no such view.
        """
        requests = pa.table(
            {
                names.USER_ID: labels[names.USER_ID].cast(pa.string()),
                names.AS_OF: labels[names.AS_OF].cast(TIMESTAMP, safe=False),
            }
        )
        frame = labels
        for view in views:
            columns = _features(self._schema(view))
            if times:
                columns = columns.append(self._schema(view).field(names.EVENT_TIMESTAMP))
            rows = read_rows(rows_as_of(self.home.view(view), requests, self.ttl(view)), columns)
            for name in columns.names:
                frame = frame.append_column(_column(view, name), rows[name])
        return frame


def _features(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field for field in schema if field.name not in _KEYS])


def _column(view: str, field: str) -> str:
    return f"{view}__{field}" if field in _SHARED else field


def _of_kind(objects: Sequence[Any], kind: str) -> list[Any]:
    return [item for item in objects if type(item).__name__ == kind]


def _fresh(result: Any, oldest: float) -> list[Any]:
    """Values as Python objects, None where the row is absent, null or older than `oldest` (epoch seconds)."""
    values: list[Any] = []
    for value, moment in zip(result.values, result.event_timestamps, strict=True):
        kind = value.WhichOneof("val")
        if kind is None or moment.seconds + moment.nanos / 1e9 < oldest:
            values.append(None)
        else:
            content = getattr(value, kind)
            values.append(np.array(content.val, np.float32) if kind == "float_list_val" else content)
    return values


def _served(values: list[Any], field: pa.Field, width: int) -> pa.Array:
    if pa.types.is_list(field.type):
        # A row of another width is of another space: as good as none.
        kept = [value if value is not None and len(value) == width else None for value in values]
        return pa.array(kept, pa.list_(pa.float32(), width))
    if pa.types.is_timestamp(field.type):
        return pa.array(values, pa.int64()).cast(pa.timestamp("s")).cast(field.type)
    return pa.array(values, field.type)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # Feast prints what it does; a library does not.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def views_applied() -> Iterator[None]:
    """Turn Feast's error about an unknown view into one line.

    Raises:
        NotReady: Feast does not know a view; run `feast apply`.
    """
    from feast.errors import FeatureViewNotFoundException

    try:
        yield
    except FeatureViewNotFoundException as error:
        raise NotReady(
            f"Feast does not know a view: {error}", "Run `feast apply` in the repository."
        ) from error
