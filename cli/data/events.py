"""`qanchor-cli events`: load files of events, compact the event log, look at it."""

from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.groups import command_group
from cli.output import JsonOption, print_json, print_table
from cli.stages import progress
from qanchor.site import Site

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qanchor.events.loading import LoadSummary
    from qanchor.storage.event_log import CompactedDate, CompactionSummary

app = command_group("events", "Load events, compact the event log, show what it holds.")


class SchemaFormat(StrEnum):
    """Schema languages."""

    JSON = "json"
    AVRO = "avro"


@app.command()
def schema(
    form: Annotated[SchemaFormat, typer.Option("--format", help="Schema language.")] = SchemaFormat.JSON,
) -> None:
    """Print the JSON Schema or Avro schema of an event on the topic.

    It follows from modalities.yaml.

    Example: qanchor-cli events schema > event.schema.json
    """
    from qanchor.events.published import avro_schema, json_schema
    from qanchor.events.schema import EventDecoder

    site = Site.open()
    if form is SchemaFormat.AVRO:
        print_json(avro_schema(site.workspace))
    else:
        print_json(json_schema(EventDecoder(site.workspace, site.settings.events)))


@app.command()
def load(
    file: Annotated[Path, typer.Argument(help="Parquet or CSV: user_id, event_time, modality, fields.")],
    assume_utc: Annotated[bool, typer.Option(help="Read times without a time zone as UTC.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Load a file of events into the event log.

    Rows are checked as the Kafka consumer checks messages. Rejected rows go to dead_letters/ under
    QANCHOR_HOME with their reasons. Loading the same file again adds nothing.

    Example: qanchor-cli events load payments.parquet
    """
    from qanchor.events.loading import EventLoader
    from qanchor.events.schema import EventDecoder

    site = Site.open()
    decoder = EventDecoder(site.workspace, site.settings.events)
    loader = EventLoader(site.engine, site.event_log, decoder, site.home.dead_letters, assume_utc)
    try:
        with progress() as bar:
            summary = loader.load(file, bar)
    finally:
        site.event_log.close()
    if as_json:
        print_json(_as_dict(summary))
    else:
        _show(summary)


def _as_dict(summary: "LoadSummary") -> dict[str, Any]:
    return {
        "file": summary.path,
        "rows": summary.rows,
        "accepted": summary.accepted,
        "repeated": summary.repeated,
        "rejected": summary.rejected.total(),
        "rejected_by_reason": dict(summary.rejected.most_common()),
        "modalities": dict(summary.modalities),
        "dead_letters": summary.dead_letters,
        "loaded_before": summary.loaded_before,
    }


def _show(summary: "LoadSummary") -> None:
    from qanchor.storage.event_log import REUSED_ID, REUSED_ID_REMEDY

    if summary.loaded_before is not None:
        print(f"{summary.path} was loaded on {summary.loaded_before:%Y-%m-%d at %H:%M} UTC: nothing to add.")
        return
    rows = [{"outcome": f"accepted: {name}", "rows": n} for name, n in sorted(summary.modalities.items())]
    if summary.repeated:
        rows.append({"outcome": "known already", "rows": summary.repeated})
    rows += [{"outcome": f"rejected: {why}", "rows": n} for why, n in summary.rejected.most_common()]
    rows.append({"outcome": "total", "rows": summary.rows})
    print_table(summary.path.name, rows)
    if summary.dead_letters is not None:
        print(f"rejected rows with reasons: {summary.dead_letters}")
    if summary.rejected[REUSED_ID]:
        print(f"{summary.rejected[REUSED_ID]:,} rows have the event_id of another event. {REUSED_ID_REMEDY}")


@app.command()
def compact(
    before: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Compact event dates before this one only.")
    ] = None,
    older_than: Annotated[
        float,
        typer.Option(min=0, metavar="HOURS", help="Compact dates without new events for this long only."),
    ] = 0.0,
    min_files: Annotated[int, typer.Option(min=1, help="Compact dates of at least N files only.")] = 2,
    file_mb: Annotated[int, typer.Option(min=1, metavar="MB", help="Size of a compacted file.")] = 256,
    grace: Annotated[
        float,
        typer.Option(min=0, metavar="HOURS", help="How long replaced files are kept for running readers."),
    ] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Merge the small files of each event date into one.

    The result is sorted by user and has every event once. Consumers and readers may run at the same time, and
    the command may be killed at any moment. Replaced files are hidden at once and deleted by a later run,
    after their grace period. Run it from a timer, with --older-than to leave out dates that still grow.

    Example: qanchor-cli events compact --older-than 6
    """
    from datetime import timedelta

    from qanchor.storage.event_log import CompactionRequest, Compactor

    site = Site.open()
    request = CompactionRequest(
        before=before.date() if before else None,
        older_than=timedelta(hours=older_than),
        min_files=min_files,
        file_bytes=file_mb * 1_000_000,
        grace=timedelta(hours=grace),
    )
    with progress() as bar:
        summary = Compactor(site.engine, site.event_log, request, bar).run()
    if as_json:
        print_json(asdict(summary))
    else:
        _show_compacted(summary)


def _show_compacted(summary: "CompactionSummary") -> None:
    if summary.dates:
        print_table(f"Compacted {len(summary.dates):,} event dates", _before_and_after(summary.dates))
    else:
        print("Nothing to compact.")
    if summary.waiting or summary.deleted:
        print(f"replaced files: {summary.deleted:,} deleted, {summary.waiting:,} kept for their grace period")
    if summary.contended:
        print(f"left to another compaction: {', '.join(summary.contended)}")
    if summary.unknown:
        print(f"{summary.unknown:,} files are not in the ledger and were left out")


def _before_and_after(dates: "Sequence[CompactedDate]") -> list[dict[str, Any]]:
    return [
        {
            "": "files",
            "before": sum(done.files_before for done in dates),
            "after": sum(done.files_after for done in dates),
        },
        {
            "": "events",
            "before": sum(done.events + done.repeats for done in dates),
            "after": sum(done.events for done in dates),
        },
        {
            "": "kB",
            "before": sum(done.bytes_before for done in dates) // 1000,
            "after": sum(done.bytes_after for done in dates) // 1000,
        },
    ]


@app.command()
def stats(as_json: JsonOption = False) -> None:
    """Show events, users and times of each modality, files and bytes.

    Example: qanchor-cli events stats --json
    """
    from qanchor.events.stats import measure_log
    from qanchor.registry.losses import find_losses
    from qanchor.storage.event_log import recover

    site = Site.open()
    log = site.event_log
    recover(site.engine, log)
    measured = measure_log(log)
    losses = [loss for loss in find_losses(site.engine, site.home) if loss.kind == "events"]
    if as_json:
        print_json({**measured, "lost": [asdict(loss) for loss in losses]})
        return
    for loss in losses:
        print(f"lost: {loss.lost}. {loss.remedy}")
    if not measured["modalities"]:
        print(f"The event log under {log.root} is empty. Fill it with `qanchor-cli events load FILE`.")
        return
    print_table("Event log", measured["modalities"])
    print(
        f"{measured['users']:,} users, {measured['files']:,} files, "
        f"{measured['bytes'] / 1e6:,.1f} MB in {log.root}"
    )
