"""The folder of all state; every path below it is named here."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Home:
    """The folder that holds all state of one workspace.

    Args:
        root: absolute path of the folder (QANCHOR_HOME).
    """

    root: Path

    @property
    def database(self) -> Path:
        """The registry's SQLite file, unless a database URL is set."""
        return self.root / "qanchor.db"

    @property
    def events(self) -> Path:
        """Event log: `event_date=YYYY-MM-DD/*.parquet`; names that begin with `_` are no data."""
        return self.root / "events"

    @property
    def dead_letters(self) -> Path:
        """Rows that `events load` refused, with their reasons."""
        return self.root / "dead_letters"

    @property
    def labels(self) -> Path:
        """`SCENARIO.parquet` each."""
        return self.root / "labels"

    @property
    def label_arrivals(self) -> Path:
        """First arrival of each label: `SCENARIO.parquet` each."""
        return self.root / "label_arrivals"

    @property
    def features(self) -> Path:
        """Feast's offline store: one folder of part files per view."""
        return self.root / "features"

    def view(self, name: str) -> Path:
        """The folder of part files of one Feast view."""
        return self.features / name

    def generation(self, view: str, manifest_id: int) -> Path:
        """The part files of one manifest; a link at `view(name)` points to the one that serves."""
        return self.root / "embeddings" / view / f"{manifest_id:08d}"

    @property
    def fingerprints(self) -> Path:
        """The embedding space of each scenario's vectors, as JSON."""
        return self.features / "fingerprints.json"

    @property
    def feast_registry(self) -> Path:
        """Feast's SQL registry."""
        return self.root / "feast_registry.db"

    @property
    def online_store(self) -> Path:
        """Feast's SQLite online store."""
        return self.root / "online.db"

    @property
    def models(self) -> Path:
        """One folder per model version; prompts below `MODEL/prompts/VERSION`."""
        return self.root / "models"

    @property
    def useru(self) -> Path:
        """Built sets of pre-training pairs, one folder each; `replies` holds answers of language models."""
        return self.root / "useru"

    @property
    def indexes(self) -> Path:
        """FAISS indexes: `SCENARIO/VERSION/`."""
        return self.root / "indexes"

    @property
    def audiences(self) -> Path:
        """Saved audiences: `NAME/VERSION.parquet`, each with a file of its sources."""
        return self.root / "audiences"

    @property
    def heads(self) -> Path:
        """LightGBM heads: `SCENARIO/VERSION/`."""
        return self.root / "heads"

    @property
    def monitoring(self) -> Path:
        """Results of `monitor`: `SCENARIO/YYYY-MM.parquet`."""
        return self.root / "monitoring"

    @property
    def reports(self) -> Path:
        """Reports with their figures."""
        return self.root / "reports"

    @property
    def broker(self) -> Path:
        """The embedded broker's log."""
        return self.root / "broker"

    @property
    def cache(self) -> Path:
        """Files that can be deleted at any time: encoded texts, histories."""
        return self.root / "cache"

    @property
    def events_by_user(self) -> Path:
        """Copies of the event log by user, one folder each."""
        return self.cache / "events_by_user"
