"""`qanchor-cli events`: load files of events; look at the event log."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.context import open_context
from cli.output import JsonOption, print_json, print_table, progress

if TYPE_CHECKING:
    from qanchor.events.ingest import LoadSummary

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)


@app.callback()
def _root() -> None:
    """Load events from files; look at the event log."""


@app.command()
def load(
    file: Annotated[Path, typer.Argument(help="Parquet or CSV: user_id, event_time, modality, fields.")],
    assume_utc: Annotated[bool, typer.Option(help="Read times without a zone as UTC.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a file's rows as the Kafka consumer would, and add the valid ones to the event log.

    Refused rows go to dead_letters/ under QANCHOR_HOME with their reasons. Loading the same file
    again adds nothing.

    Example: qanchor-cli events load payments.parquet
    """
    from qanchor.events.ingest import EventLoader
    from qanchor.events.schema import EventDecoder
    from qanchor.storage.event_log import EventLog

    context = open_context()
    decoder = EventDecoder(context.workspace, context.settings.events)
    log = EventLog(context.home.events, context.workspace)
    loader = EventLoader(context.engine, log, decoder, context.home.dead_letters, assume_utc)
    try:
        with progress() as bar:
            summary = loader.load(file, bar)
    finally:
        log.close()
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
    if summary.loaded_before is not None:
        print(f"{summary.path} was loaded on {summary.loaded_before:%Y-%m-%d at %H:%M} UTC: nothing to add.")
        return
    rows = [{"outcome": f"accepted: {name}", "rows": n} for name, n in sorted(summary.modalities.items())]
    if summary.repeated:
        rows.append({"outcome": "in the log already", "rows": summary.repeated})
    rows += [{"outcome": f"rejected: {why}", "rows": n} for why, n in summary.rejected.most_common()]
    rows.append({"outcome": "total", "rows": summary.rows})
    print_table(summary.path.name, rows)
    if summary.dead_letters is not None:
        print(f"rejected rows with reasons: {summary.dead_letters}")


@app.command()
def stats(as_json: JsonOption = False) -> None:
    """Say what the event log holds: events, users and times of each modality, files and bytes.

    Example: qanchor-cli events stats --json
    """
    from qanchor.events.ingest import recover
    from qanchor.events.stats import measure_log
    from qanchor.storage.event_log import EventLog

    context = open_context()
    log = EventLog(context.home.events, context.workspace)
    recover(context.engine, log)
    measured = measure_log(log)
    if as_json:
        print_json(measured)
        return
    if not measured["modalities"]:
        print(f"The event log under {log.root} is empty. Fill it with `qanchor-cli events load FILE`.")
        return
    print_table("Event log", measured["modalities"])
    print(
        f"{measured['users']:,} users, {measured['files']:,} files, "
        f"{measured['bytes'] / 1e6:,.1f} MB in {log.root}"
    )
