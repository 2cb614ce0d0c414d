"""The event log: append, recover, compact, and the copies of it by user."""

from qanchor.registry.ledger import StagedFile
from qanchor.storage.event_log.compaction import (
    CompactedDate,
    CompactionRequest,
    CompactionSummary,
    Compactor,
)
from qanchor.storage.event_log.ids import REUSED_ID, REUSED_ID_REMEDY, IdChecker
from qanchor.storage.event_log.log import EventLog, append, recover, settle
from qanchor.storage.event_log.reading import EventSource, log_schema, time_conditions
from qanchor.storage.event_log.user_copy import UserCopy, open_copy
from qanchor.storage.event_log.user_copy_writer import CopyLayout, keep_copy, remove_copies
from qanchor.storage.event_log.user_events import LogRows, UserEvents
from qanchor.storage.event_log.user_ranges import UserRange, sort_by_user

__all__ = [
    "REUSED_ID",
    "REUSED_ID_REMEDY",
    "CompactedDate",
    "CompactionRequest",
    "CompactionSummary",
    "Compactor",
    "CopyLayout",
    "EventLog",
    "EventSource",
    "IdChecker",
    "LogRows",
    "StagedFile",
    "UserCopy",
    "UserEvents",
    "UserRange",
    "append",
    "keep_copy",
    "log_schema",
    "open_copy",
    "recover",
    "remove_copies",
    "settle",
    "sort_by_user",
    "time_conditions",
]
