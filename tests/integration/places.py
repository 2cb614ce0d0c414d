"""One home on one broker for tests, and events to send through them."""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine

from consumers.consume import ConsumeOptions, run_consumer
from consumers.producer import ProduceSummary, produce_file
from consumers.stop_rule import StopRule
from consumers.summary import ConsumeSummary
from qanchor.events.schema import EventDecoder
from qanchor.progress import Silent
from qanchor.registry.migrate import prepare
from qanchor.registry.session import open_engine
from qanchor.settings import DatabaseSettings, EventSettings, KafkaSettings, Settings
from qanchor.site import Site
from qanchor.storage.event_log import EventLog
from qanchor.workspace import load_workspace
from tests.integration.brokers import REPO, environment

WORKSPACE: Final = load_workspace(REPO)
TO_THE_END: Final = StopRule(at_end=True)
START: Final = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Place:
    """One home on one broker, used from this process; commands that are killed run in their own."""

    home: Path
    address: str
    kafka: Mapping[str, Any] = field(default_factory=dict)
    database: DatabaseSettings = field(default_factory=DatabaseSettings)

    @property
    def settings(self) -> Settings:
        kafka = KafkaSettings(brokers=self.address, **self.kafka)
        return Settings(home=self.home, repo=REPO, kafka=kafka, database=self.database)

    @property
    def env(self) -> dict[str, str]:
        kafka = environment(self.home, self.address, **{name: str(v) for name, v in self.kafka.items()})
        database = self.database.model_dump(exclude_unset=True)
        return kafka | {f"QANCHOR_DATABASE__{name.upper()}": str(value) for name, value in database.items()}

    def produce(self, events: Sequence[Mapping[str, Any]]) -> ProduceSummary:
        self.home.mkdir(exist_ok=True)
        path = self.home / "sent.jsonl"
        path.write_text("".join(json.dumps(event) + "\n" for event in events))
        decoder = EventDecoder(WORKSPACE, EventSettings())
        return produce_file(path, decoder, self.settings.kafka, Silent())

    @property
    def engine(self) -> Engine:
        engine = open_engine(self.settings.database_url, self.database.busy_seconds)
        prepare(engine, self.settings.database_url)
        return engine

    def consume(self, rule: StopRule = TO_THE_END, **options: Any) -> ConsumeSummary:
        with Site(self.settings, workspace=WORKSPACE) as site:
            return run_consumer(site, ConsumeOptions(rule=rule, **options), threading.Event(), Silent())

    def files(self) -> int:
        return len(list((self.home / "events").glob("event_date=*/*.parquet")))

    def rubbish(self) -> list[str]:
        """What no writer needs any more: nothing, once a run has ended well."""
        return sorted(path.name for path in (self.home / "events" / "_staging").iterdir())

    def ids(self) -> tuple[list[str], int]:
        """Event ids that readers see, and rows that lie in the files."""
        log = EventLog(self.home / "events", WORKSPACE)
        files = [str(path) for path in log.files()]
        if not files:
            return [], 0
        with log.connect() as connection:
            seen = [row[0] for row in connection.execute("SELECT event_id FROM events").fetchall()]
            stored = connection.execute("SELECT count(*) FROM read_parquet(?)", [files]).fetchall()[0][0]
        return sorted(seen), stored


def make_event(number: int, **changes: Any) -> dict[str, Any]:
    event = {
        "event_id": f"e{number:06d}", "user_id": f"u{number % 97}", "modality": "purchase",
        "event_time": (START + timedelta(minutes=number)).isoformat(), "description": "mug",
        "country": "FR", "invoice": "1", "quantity": 1, "unit_price": 2.5, "amount": 2.5,
    }  # fmt: skip
    return {**event, **changes}


def make_events(start: int, stop: int, **changes: Any) -> list[dict[str, Any]]:
    return [make_event(number, **changes) for number in range(start, stop)]


def event_names(start: int, stop: int) -> list[str]:
    return [f"e{number:06d}" for number in range(start, stop)]
