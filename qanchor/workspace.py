"""The workspace: modalities.yaml and scenarios.yaml, validated once and passed in.

A deployment names its kinds of event and its scenarios there; no code knows them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from string import Formatter
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from qanchor.aggregates import activity_aggregates
from qanchor.errors import UnknownScenario, WorkspaceInvalid

_NAME = re.compile(r"^[a-z][a-z0-9_]{0,47}$")
_RESERVED = {"event_id", "user_id", "event_time", "modality", "event_date", "as_of", "label", "fold", "split"}
_RESERVED |= {"filename", "file_row_number"}  # DuckDB's names for where a row is from


class FieldSpec(BaseModel, extra="forbid", frozen=True):
    """One field of a modality.

    `text` may be in the template; `key` is carried but never read by the model (an invoice number);
    `number` is a further input of the model, after `transform`.
    """

    type: Literal["text", "number", "key"]
    optional: bool = False
    transform: Literal["signed_log", "log", "linear"] = "signed_log"
    amount: bool = Field(False, description="the number that the activity view sums")
    minimum: float = Field(-1e15, description="smallest number accepted")
    maximum: float = Field(1e15, description="largest number accepted")
    max_length: int = Field(256, gt=0, description="longest text accepted, characters")


class ModalitySpec(BaseModel, extra="forbid", frozen=True):
    """One kind of event: its fields, its text for the model, the most events kept per user."""

    text: str = Field(description="template over the text fields, such as 'paid {category} at {merchant}'")
    fields: dict[str, FieldSpec]
    max_events: int = Field(64, gt=0, description="newest events kept per user")
    profile: bool = Field(False, description="the newest event is the user's profile")
    description: str = ""

    @property
    def template_fields(self) -> tuple[str, ...]:
        """The fields that the template names, in its order."""
        return tuple(name for _, name, _, _ in Formatter().parse(self.text) if name)

    @property
    def numbers(self) -> tuple[str, ...]:
        """The numeric fields in the order of the file; the model's numeric vector follows it."""
        return tuple(name for name, spec in self.fields.items() if spec.type == "number")

    @property
    def amount(self) -> str | None:
        """The field that the activity view sums, if there is one."""
        return next((name for name, spec in self.fields.items() if spec.amount), None)

    @model_validator(mode="after")
    def _check_fields(self) -> "ModalitySpec":
        for name in self.template_fields:
            if name not in self.fields or self.fields[name].type != "text":
                raise ValueError(f"the template names {name!r}, which is no text field")
        for name in self.fields:
            if not _NAME.match(name) or name in _RESERVED:
                raise ValueError(f"field name {name!r} is reserved or not lower_snake_case")
        amounts = [name for name, spec in self.fields.items() if spec.amount]
        if len(amounts) > 1 or any(self.fields[name].type != "number" for name in amounts):
            raise ValueError("at most one field may be the amount, and it must be a number")
        return self


class GateSpec(BaseModel, extra="forbid", frozen=True):
    """Thresholds that new embeddings of a scenario must meet to be put in service."""

    min_coverage: float = Field(0.99, ge=0, le=1, description="share of the users with a vector")
    min_kept_users: float = Field(0.95, ge=0, le=1, description="share of the users served so far")
    max_centroid_drift: float = Field(
        0.25, ge=0, le=2, description="1 - cosine of the mean vectors, in one embedding space"
    )
    min_neighbour_overlap: float = Field(
        0.05, ge=0, le=1, description="share of the ten nearest neighbours that stay"
    )
    max_score_shift: float = Field(0.25, ge=0, description="PSI of the head's scores, in one embedding space")


class MonitorSpec(BaseModel, extra="forbid", frozen=True):
    """Thresholds of a scenario in service; beyond them `qanchor-cli monitor` raises an alarm."""

    max_score_psi: float = Field(0.25, ge=0, description="PSI of published scores from the head's test rows")
    max_embedding_psi: float = Field(
        0.25, ge=0, description="mean PSI of the vectors' components from the head's training rows"
    )
    max_centroid_drift: float = Field(
        0.25, ge=0, le=2, description="1 - cosine of the mean vector and that of the head's training rows"
    )
    max_calibration_error: float = Field(
        0.05, ge=0, le=1, description="expected calibration error of scores whose outcome is known"
    )
    max_label_wait_days: float = Field(
        45, gt=0, description="how long scores may wait for labels once their outcome is known"
    )
    max_embedding_age_days: float | None = Field(None, gt=0, description="default: ttl_days")
    max_score_age_days: float | None = Field(None, gt=0, description="default: ttl_days")
    min_embedding_coverage: float = Field(
        0.95, ge=0, le=1, description="share of the users active within the window with a fresh vector"
    )
    min_score_coverage: float = Field(
        0.9, ge=0, le=1, description="share of the users with a fresh vector with a fresh score"
    )


class ScenarioSpec(BaseModel, extra="forbid", frozen=True):
    """One business scenario: the query that anchors its embedding, and how long that stays fresh."""

    domain: Literal["risk", "marketing", "engagement"]
    query: str = Field(min_length=8, max_length=400)
    horizon_days: int = Field(30, gt=0, le=3650, description="prediction window after the cut-off")
    ttl_days: int = Field(30, gt=0, le=3650, description="how long an embedding may be served")
    positive: str = Field("yes", description="an answer in words that means the label is 1")
    negative: str = Field("no", description="an answer in words that means the label is 0")
    classes: tuple[str, ...] = Field(
        (), max_length=64, description="an answer for each label from 0 on, where there are more than two"
    )
    description: str = ""
    width: int | None = Field(
        None, gt=0, description="first numbers of a vector that are served; default: all"
    )
    refresh_budget: float = Field(
        0.0, ge=0, le=1, description="change of a user's history that a refresh leaves for later"
    )
    gates: GateSpec = Field(default_factory=GateSpec, description="thresholds that keep bad vectors out")
    monitor: MonitorSpec = Field(default_factory=MonitorSpec, description="thresholds of alarms in service")
    max_feature_age_days: float | None = Field(
        None, gt=0, description="age of a label's features from which on `head train` refuses; default: none"
    )
    monotone: dict[str, Literal[-1, 1]] = Field(
        default_factory=dict, description="features that a head's score never falls (1) or rises (-1) with"
    )

    @property
    def answers(self) -> tuple[str, ...]:
        """An answer in words for each label, from 0 on."""
        return self.classes or (self.negative, self.positive)

    @property
    def has_words(self) -> bool:
        """Whether the answers are more than yes and no."""
        return bool(self.classes) or {self.negative, self.positive} != {"no", "yes"}

    @model_validator(mode="after")
    def _check_answers(self) -> "ScenarioSpec":
        if self.classes and (len(self.classes) < 3 or len(set(self.classes)) < len(self.classes)):
            raise ValueError("classes must be three or more different answers; two are positive and negative")
        if not self.classes and self.positive.strip().lower() == self.negative.strip().lower():
            raise ValueError("positive and negative are the same answer")
        return self


class _ModalitiesFile(BaseModel, extra="forbid", frozen=True):
    window_days: int = Field(90, gt=0, le=36_500, description="how far back a history reaches")
    modalities: dict[str, ModalitySpec] = Field(min_length=1, max_length=64)


class _ScenariosFile(BaseModel, extra="forbid", frozen=True):
    scenarios: dict[str, ScenarioSpec] = Field(default_factory=dict)


@dataclass(frozen=True)
class Workspace:
    """The kinds of event of a deployment, and its scenarios.

    Args:
        repo: folder of the feature repository.
        window_days: history window before the cut-off.
        modalities: by name, in the order of the file.
        scenarios: by name, in the order of the file.
    """

    repo: Path
    window_days: int
    modalities: Mapping[str, ModalitySpec]
    scenarios: Mapping[str, ScenarioSpec]

    def scenario(self, name: str) -> ScenarioSpec:
        """The scenario of that name.

        Raises:
            UnknownScenario: scenarios.yaml does not name it; add it there.
        """
        if name not in self.scenarios:
            raise UnknownScenario(name, list(self.scenarios))
        return self.scenarios[name]

    def domain(self, domain: str) -> tuple[str, ...]:
        """The scenarios of one domain."""
        return tuple(name for name, spec in self.scenarios.items() if spec.domain == domain)

    @property
    def profile_modality(self) -> str | None:
        """The modality whose newest event is the profile, if there is one."""
        return next((name for name, spec in self.modalities.items() if spec.profile), None)

    @property
    def event_columns(self) -> dict[str, Literal["text", "number"]]:
        """Every modality's fields as columns of the event log, in a stable order."""
        columns: dict[str, Literal["text", "number"]] = {}
        for spec in self.modalities.values():
            for name, field in spec.fields.items():
                columns.setdefault(name, "number" if field.type == "number" else "text")
        return columns

    @property
    def activity_columns(self) -> list[str]:
        """The activity view's features; qanchor.events.activity computes them.

        Per modality: `act_M_count_Wd` and, where it has an amount, `act_M_sum_Wd` over each window,
        and `act_M_recency_days`, the days since its last event.
        """
        return [
            aggregate.column(name)
            for name, spec in self.modalities.items()
            for aggregate in activity_aggregates(has_amount=spec.amount is not None)
        ]

    @property
    def profile_columns(self) -> dict[str, Literal["text", "number"]]:
        """The profile view's features `prof_FIELD` by name; empty without a profile modality."""
        if self.profile_modality is None:
            return {}
        fields = self.modalities[self.profile_modality].fields
        return {
            f"prof_{n}": "number" if f.type == "number" else "text"
            for n, f in fields.items()
            if f.type != "key"
        }


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that is written twice is an error; plain YAML takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, its keys checked."""
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.tag != "tag:yaml.org,2002:merge" and lines.setdefault(key.value, line) != line:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} is in lines {lines[key.value]} and {line}: keep one of them"
                )
        return super().construct_mapping(node, deep)


_File = TypeVar("_File", _ModalitiesFile, _ScenariosFile)


def _read(path: Path, schema: type[_File]) -> _File:
    remedy = f"Fix {path.name}, or make a new repository with `qanchor-cli new DIR`."
    try:
        content: Any = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)  # a SafeLoader
    except FileNotFoundError:
        raise WorkspaceInvalid(
            f"there is no {path}",
            "Go to a feature repository, set QANCHOR_REPO, or run `qanchor-cli new DIR`.",
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise WorkspaceInvalid(f"{path} is not YAML: {reason}", remedy) from error
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise WorkspaceInvalid(f"{path}: {where}: {first['msg']}", remedy) from error


def _check_names(workspace: Workspace) -> None:
    for kind, names in (("modality", workspace.modalities), ("scenario", workspace.scenarios)):
        for name in names:
            if not _NAME.match(name):
                raise WorkspaceInvalid(
                    f"{kind} name {name!r} is not lower_snake_case", "Rename it in the yaml file."
                )
    kinds: dict[str, str] = {}
    for name, spec in workspace.modalities.items():
        for field, field_spec in spec.fields.items():
            kind = "number" if field_spec.type == "number" else "text"
            if kinds.setdefault(field, kind) != kind:
                raise WorkspaceInvalid(
                    f"field {field!r} is a {kind} in {name} and a {kinds[field]} in another modality",
                    "Give one of them another name: they share a column of the event log.",
                )
    if sum(spec.profile for spec in workspace.modalities.values()) > 1:
        raise WorkspaceInvalid("more than one modality is marked as the profile", "Mark at most one.")


def load_workspace(repo: Path) -> Workspace:
    """The workspace of a feature repository.

    Args:
        repo: folder that holds modalities.yaml and scenarios.yaml.

    Raises:
        WorkspaceInvalid: a file is missing, is not YAML or breaks its schema; the message names the entry.
    """
    modalities = _read(repo / "modalities.yaml", _ModalitiesFile)
    scenarios = _read(repo / "scenarios.yaml", _ScenariosFile)
    workspace = Workspace(repo, modalities.window_days, modalities.modalities, scenarios.scenarios)
    _check_names(workspace)
    return workspace


# The definitions.py of a repository that 0.1.0 made imports these names from here.
_MOVED = {
    "Home": "qanchor.home",
    "locate": "qanchor.site",
    "read_fingerprints": "qanchor.storage.spaces",
    "vector_widths": "qanchor.storage.spaces",
}


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MOVED[name]), name)
