"""Every column, view and field name that more than one module writes or reads.

Names only: nothing here computes, so a Feast repository may import it at no cost.
"""

from typing import Final

USER_ID: Final = "user_id"
EVENT_ID: Final = "event_id"
EVENT_TIME: Final = "event_time"
MODALITY: Final = "modality"

# Origin of an event, written by the append to the event log.
SOURCE_PARTITION: Final = "_partition"
SOURCE_OFFSET: Final = "_offset"
INGESTED_AT: Final = "_ingested_at"
EVENT_DATE: Final = "event_date"

AS_OF: Final = "as_of"
LABEL: Final = "label"
FOLD: Final = "fold"
SPLIT: Final = "split"
SPLITS: Final = ("train", "valid", "test")

# Feast's two clocks.
EVENT_TIMESTAMP: Final = "event_timestamp"
CREATED: Final = "created"

MODEL_VERSION: Final = "model_version"
N_EVENTS: Final = "n_events"
LAST_EVENT_TS: Final = "last_event_ts"

EMBEDDING_WIDTH: Final = 128
DOMAINS: Final = ("risk", "marketing", "engagement")
ACTIVITY_VIEW: Final = "user_activity"
PROFILE_VIEW: Final = "user_profile"


def embedding_view(scenario: str) -> str:
    """The Feast view that holds one scenario's embeddings."""
    return f"user_emb_{scenario}"


def embedding_field(scenario: str) -> str:
    """The vector's field in that view; unique over all views, so services may mix them."""
    return f"emb_{scenario}"


def score_view(scenario: str) -> str:
    """The Feast view that holds one scenario's head scores."""
    return f"user_score_{scenario}"


def score_field(scenario: str) -> str:
    """The probability's field in that view; `FIELD_head` is the head's version."""
    return f"score_{scenario}"


def parts_source(view: str) -> str:
    """Feast's data source of a view's part files."""
    return f"{view}_parts"


def service_name(domain: str) -> str:
    """The Feast feature service of a domain."""
    return f"{domain}_v1"
