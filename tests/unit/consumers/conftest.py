"""A sink that writes to a log and a registry."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from consumers.decode import RejectedRecord
from consumers.sinks.event_log import EventLogSink, RepeatWindow
from qanchor.storage.event_log import EventLog
from tests.unit.consumers.fakes import TOPIC
from tests.unit.events.files import WORKSPACE, make_decoder


class KeptLetters(list[RejectedRecord]):
    """Dead letters that stay here."""

    def send(self, rejected: list[RejectedRecord]) -> None:
        self.extend(rejected)


@pytest.fixture
def sink(tmp_path: Path, engine: Engine) -> EventLogSink:
    log = EventLog(tmp_path / "events", WORKSPACE)
    return EventLogSink(
        engine, log, make_decoder(), KeptLetters(), "g", TOPIC, 0.5, RepeatWindow(engine, log, 100)
    )
