"""The frozen Settings of a process; nothing else reads the environment.

Every knob sits in a group, because pydantic-settings ignores a mistyped variable at the top
level: QANCHOR_KAFKA__BROKERS, QANCHOR_COMPUTE__THREADS, ... Only QANCHOR_HOME and QANCHOR_REPO
have no group, and any other QANCHOR_ variable is refused by name.
"""

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from qanchor.errors import WorkspaceInvalid, did_you_mean
from qanchor.home import Home

_PREFIX = "QANCHOR_"


class DatabaseSettings(BaseModel, extra="forbid", frozen=True):
    """The database of the registry and the Kafka ledger."""

    url: str = Field("", description="SQLAlchemy URL; empty: SQLite under QANCHOR_HOME")
    busy_seconds: float = Field(30.0, gt=0, description="how long to wait for a locked SQLite file")


class KafkaSettings(BaseModel, extra="forbid", frozen=True):
    """The cluster, its topics, and how the consumer reads them."""

    brokers: str = Field("127.0.0.1:9092", description="comma-separated host:port")
    topic: str = Field("user-events", description="topic of user events, keyed by user_id")
    dead_letter_topic: str = Field("user-events.dead", description="topic of refused messages")
    group: str = Field("qanchor", description="consumer group")
    partitions: int = Field(4, gt=0, description="partitions of a topic that the embedded broker creates")
    batch_events: int = Field(5_000, gt=0, description="events per poll")
    flush_events: int = Field(200_000, gt=0, description="most events per write to the event log")
    flush_seconds: float = Field(5.0, gt=0, description="longest time an event waits for its write")
    remembered_events: int = Field(
        200_000,
        ge=0,
        description="event_ids kept per partition to drop a producer's re-sends; 0: none",
    )
    largest_batch_bytes: int = Field(
        64 << 20, gt=0, description="size of a batch of messages, decompressed, from which on it is refused"
    )
    session_seconds: float = Field(45.0, gt=0, description="group session time-out")
    dead_letter_share: float = Field(
        0.5, gt=0, le=1, description="share of bad messages that stops the consumer"
    )
    online: bool = Field(False, description="keep the activity view in the online store up to date too")
    online_seconds: float = Field(0.3, gt=0, description="flush_seconds where the online store is kept up")
    online_events: int = Field(
        5_000_000,
        ge=0,
        description="events kept in memory for the online store, 26 bytes each and more for each user",
    )
    api_version: str = Field(
        "",
        pattern=r"^(\d+(\.\d+)+)?$",
        description="Kafka's version, such as 2.3; empty: ask the brokers",
    )
    format: Literal["json", "avro"] = Field("json", description="of the messages; avro needs a registry")
    schema_registry: str = Field("", description="URL of a Confluent-compatible schema registry, for avro")
    metadata_seconds: float = Field(
        20.0, gt=0, description="age at which the topic's partitions are looked up again"
    )
    security: dict[str, Any] = Field(
        default_factory=dict, description="extra kafka-python options: SASL, TLS; JSON types"
    )


class EventSettings(BaseModel, extra="forbid", frozen=True):
    """Event times that are refused, and how events are stored."""

    oldest: str = Field("1970-01-02", description="events before this UTC date are refused")
    future_seconds: float = Field(
        86_400.0,  # qanchor.times would load pyarrow, and --help has to be instant
        ge=0,
        description="maximum clock skew: how far in the future an event time may be, seconds",
    )
    by_user: bool = Field(
        True, description="a backfill keeps a copy of the log by user, about as large, for quick refreshes"
    )


class ComputeSettings(BaseModel, extra="forbid", frozen=True):
    """Cores, device and number format of the model."""

    threads: int = Field(0, ge=0, description="native threads; 0: all usable cores")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    precision: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto", description="auto: bfloat16 on a GPU that has it; int8: weights for embedding on a CPU"
    )


class IndexSettings(BaseModel, extra="forbid", frozen=True):
    """The kind of vector index that is built, and its required recall."""

    kind: Literal["auto", "flat", "codes", "ivf", "hnsw"] = Field(
        "auto", description="auto: by size, memory and whether vectors form clusters"
    )
    recall: float = Field(
        0.98, gt=0, lt=1, description="share of the true 100 nearest that a search must find"
    )
    memory_gib: float = Field(
        0.0, ge=0, description="most memory of a search, without mapped vectors; 0: no limit"
    )
    exact_below: int = Field(50_000, ge=0, description="fewer users than this are searched exactly")
    shard_users: int = Field(20_000_000, ge=10_000, description="most users of one index file")


class LlmSettings(BaseModel, extra="forbid", frozen=True):
    """An optional language model that writes answers for pre-training."""

    url: str = Field("", description="base of an OpenAI-compatible endpoint, such as http://HOST:PORT/v1")
    model: str = Field("", description="name of the model there")
    api_key: SecretStr = Field(SecretStr(""), description="sent as a bearer token")
    timeout_seconds: float = Field(60.0, gt=0, description="for one attempt")
    attempts: int = Field(5, gt=0, description="before the endpoint counts as unavailable")


class LogSettings(BaseModel, extra="forbid", frozen=True):
    """The log."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"


class Settings(BaseSettings):
    """All settings of a process, read once at the entry point and passed in."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, env_file=None
    )

    home: Path | None = Field(
        None, description="folder of all state; default: .qanchor in the folder of the feature repository"
    )
    repo: Path | None = Field(None, description="the feature repository; default: here, or ./feature_repo")
    database: DatabaseSettings = DatabaseSettings()
    kafka: KafkaSettings = KafkaSettings()
    events: EventSettings = EventSettings()
    compute: ComputeSettings = ComputeSettings()
    index: IndexSettings = IndexSettings()
    llm: LlmSettings = LlmSettings()
    log: LogSettings = LogSettings()

    @property
    def repo_path(self) -> Path:
        """Absolute path of the feature repository."""
        if self.repo is not None:
            return self.repo.expanduser().resolve()
        here = Path.cwd()
        return here if (here / "modalities.yaml").exists() else here / "feature_repo"

    @property
    def state(self) -> Home:
        """The home: the same folder whether the process runs in the repository or in the folder above it."""
        if self.home is not None:
            return Home(self.home.expanduser().resolve())
        return Home(self.repo_path.parent / ".qanchor")

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the registry."""
        return self.database.url or f"sqlite:///{self.state.database}"


def load_settings(repo: Path | None = None) -> Settings:
    """Settings from the environment, all of it checked.

    Args:
        repo: folder of the feature repository; default: that of the environment.

    Raises:
        WorkspaceInvalid: a QANCHOR_ variable is unknown or its value is invalid; fix or unset it.
    """
    known = {_PREFIX + name.upper() for name in Settings.model_fields}
    for name in os.environ:
        if name.startswith("QANCHOR_TEST_"):
            continue  # addresses of the servers that the test suite starts
        if name.startswith(_PREFIX) and name.split("__", maxsplit=1)[0] not in known:
            hint = did_you_mean(name.split("__", maxsplit=1)[0], known)
            raise WorkspaceInvalid(
                f"environment variable {name} is unknown", f"{hint}Known groups: {', '.join(sorted(known))}."
            )
    try:
        return Settings() if repo is None else Settings(repo=repo)
    except SettingsError as error:
        # pydantic-settings names the group and not the variable.
        raise WorkspaceInvalid(
            f"a QANCHOR_ variable that takes JSON is not JSON: {error}: {error.__cause__}",
            "Fix or unset it, such as QANCHOR_KAFKA__SECURITY.",
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = "__".join(str(part).upper() for part in first["loc"])
        raise WorkspaceInvalid(
            f"setting {_PREFIX}{where}: {first['msg']}", "Fix or unset that variable."
        ) from error
