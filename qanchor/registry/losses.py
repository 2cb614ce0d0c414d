"""Files that the registry knows and the home no longer has: what is lost, and what to run."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from qanchor.home import Home
from qanchor.names import EVENT_DATE
from qanchor.registry.ledger import REPLACED
from qanchor.registry.session import transaction
from qanchor.registry.tables import Head, IndexVersion, LabelSet, LedgerFile, ModelVersion, PromptVersion
from qanchor.registry.versions import active_rows

_SHOWN = 3


@dataclass(frozen=True)
class Loss:
    """Something that was deleted behind the registry's back.

    Args:
        kind: events, model, prompt, head, index or labels.
        lost: what is gone, one sentence.
        remedy: what to do.
    """

    kind: str
    lost: str
    remedy: str


def find_losses(engine: Engine, home: Home) -> list[Loss]:
    """What is in use according to the registry, and gone.

    Args:
        engine: the registry.
        home: the home that it belongs to.
    """
    with transaction(engine) as session:
        return [*_events(session, home), *_artifacts(session, home)]


def _events(session: Session, home: Home) -> Iterator[Loss]:
    gone = []
    for file in session.scalars(select(LedgerFile).where(LedgerFile.state != REPLACED)):
        path = home.events / f"{EVENT_DATE}={file.event_date}" / file.name
        if not path.exists() and not (home.events / "_staging" / file.name).exists():
            gone.append(file)
    if gone:
        names = ", ".join(f"{EVENT_DATE}={f.event_date}/{f.name}" for f in gone[:_SHOWN])
        more = f" and {len(gone) - _SHOWN:,} more files" if len(gone) > _SHOWN else ""
        dates = sorted({f.event_date for f in gone})
        span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        yield Loss(
            "events",
            f"{sum(f.rows for f in gone):,} events of {span} are gone with {names}{more} of {home.events}",
            "Restore the files from a backup; vectors made without them: `qanchor-cli backfill --all`.",
        )


def _artifacts(session: Session, home: Home) -> Iterator[Loss]:
    model = session.scalars(
        select(ModelVersion).where(ModelVersion.active.is_(True)).order_by(ModelVersion.created_at.desc())
    ).first()
    if model is not None and not (home.root / model.path).exists():
        yield Loss(
            "model",
            f"the model {model.version} in service is gone with {home.root / model.path}",
            "Restore it from a backup, or run `qanchor-cli pretrain`, then `qanchor-cli backfill --all`.",
        )
    commands: tuple[tuple[Any, str, str], ...] = (
        (PromptVersion, "prompt", "tune"),
        (Head, "head", "head train"),
        (IndexVersion, "index", "index build"),
    )
    for table, kind, command in commands:
        for row in session.scalars(active_rows(table)):
            if not (home.root / row.path).exists():
                yield Loss(
                    kind,
                    f"the {kind} {row.version} of {row.scenario} is gone with {home.root / row.path}",
                    f"Restore it from a backup, or run `qanchor-cli {command} --scenario {row.scenario}`.",
                )
    for labels in session.scalars(select(LabelSet)):
        path = home.labels / f"{labels.scenario}.parquet"
        if not path.exists():
            yield Loss(
                "labels",
                f"{labels.rows:,} labels of {labels.scenario} are gone with {path}",
                f"Restore it from a backup, or run `qanchor-cli labels load {labels.scenario} FILE`.",
            )
