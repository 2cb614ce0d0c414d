"""`qanchor-cli consume`: events from Kafka into the event log."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import JsonOption, print_json, print_table
from cli.stages import progress
from qanchor.site import Site

if TYPE_CHECKING:
    from consumers.group_status import GroupStatus, PartitionStatus
    from consumers.summary import ConsumeSummary

app = typer.Typer(name="consume", add_completion=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Option(help="Name of this consumer in its group; default: the host's.")
    ] = None,
    stop_at_end: Annotated[
        bool, typer.Option(help="Stop after the events that are on the topic now.")
    ] = False,
    until_idle: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Stop after this long without an event.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(metavar="PORT", help="Serve metrics, /healthz and /readyz on this port of 127.0.0.1."),
    ] = None,
    skip_deleted: Annotated[
        bool, typer.Option(help="Continue where the broker has deleted unread events.")
    ] = False,
    skip: Annotated[
        list[str] | None,
        typer.Option(metavar="PARTITION:OFFSET", help="Leave out a message that cannot be read; repeatable."),
    ] = None,
    recreated: Annotated[
        bool, typer.Option("--recreated", help="Read a topic that was created again from its beginning.")
    ] = False,
    online: Annotated[
        bool, typer.Option("--online", help="Update the online activity features as well.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Stream events from Kafka into the event log until interrupted.

    Each event is written exactly once. Invalid messages go to the dead-letter topic with their reasons. After
    a kill at any moment the next run continues where the ledger ends. Several consumers share the partitions:
    give each a different --name.

    Example: qanchor-cli consume --stop-at-end
    """
    if context.invoked_subcommand is not None:
        return
    import threading

    from consumers.consume import ConsumeOptions, read_offset, run_consumer
    from consumers.shutdown import end_process, stop_on_signals
    from consumers.stop_rule import StopRule

    site = Site.open()
    stop = threading.Event()
    stop_on_signals(stop)
    rule, offsets = StopRule(until_idle, stop_at_end), [read_offset(text) for text in skip or ()]
    options = ConsumeOptions(name, rule, metrics_port, skip_deleted, online, offsets, recreated)
    with progress() as bar:
        summary = run_consumer(site, options, stop, bar)
    if as_json:
        print_json(_document(summary))
    else:
        _show(summary, site.settings.kafka.dead_letter_topic)
    if stop.is_set():
        end_process(0)


def _document(summary: "ConsumeSummary") -> dict[str, object]:
    return {
        "events": summary.events,
        "repeats_left_out": summary.repeated,
        "skipped": summary.skipped,
        "dead_letters": dict(summary.rejected.most_common()),
        "writes": summary.writes,
        "fenced": summary.fenced,
        "seconds": round(summary.seconds, 3),
        "events_per_second": round(summary.rate),
        "lag": {str(partition): left for partition, left in sorted(summary.lag.items())},
    }


def _show(summary: "ConsumeSummary", dead_letter_topic: str) -> None:
    rows = [{"outcome": "in the event log", "events": summary.events}]
    if summary.repeated:
        rows.append({"outcome": "repeats left out", "events": summary.repeated})
    if summary.skipped:
        rows.append({"outcome": "skipped on request", "events": summary.skipped})
    rows += [{"outcome": f"dead letter: {why}", "events": n} for why, n in summary.rejected.most_common()]
    rows.append({"outcome": "left on the topic", "events": sum(summary.lag.values())})
    print_table("Consumed", rows)
    print(f"{summary.rate:,.0f} events/s over {summary.seconds:.1f} s, {summary.writes:,} writes")
    if summary.rejected:
        print(f"dead letters with reasons: topic {dead_letter_topic}; `qanchor-cli deadletters list`")


@app.command()
def status(as_json: JsonOption = False) -> None:
    """Show the lag, owner and last commit of each partition.

    Lag is the topic's end minus the ledger, which is the truth; Kafka's group offsets follow it. Without
    a broker the ledger alone is shown, and the exit code is 4.

    Example: qanchor-cli consume status
    """
    from consumers.group_status import read_status

    site = Site.open()
    kafka = site.settings.kafka
    group = read_status(kafka, site.engine)
    rows = [_row(partition) for partition in group.partitions]
    if as_json:
        print_json({"topic": kafka.topic, "group": kafka.group, "members": group.members, "partitions": rows})
    elif rows:
        print_table(f"Topic {kafka.topic}, group {kafka.group}", rows)
        print(_summary(group))
    else:
        print(f"topic {kafka.topic} has no known partition; nothing was consumed yet")
    if group.broker_problem is not None:
        raise group.broker_problem


def _row(partition: "PartitionStatus") -> dict[str, object]:
    age = partition.commit_age_seconds()
    return {
        "partition": partition.partition,
        "end": partition.end,
        "written": partition.written,
        "lag": partition.lag,
        "online_lag": partition.online_lag,
        "owner": partition.owner,
        **({"skipped": partition.skipped} if partition.skipped else {}),
        "seconds_since_commit": None if age is None else round(age, 1),
    }


def _summary(status: "GroupStatus") -> str:
    if status.broker_problem is not None:
        return "from the ledger alone; ends, lag and owners are unknown"
    left = sum(partition.lag or 0 for partition in status.partitions)
    members = ", ".join(status.members) or "none, start `qanchor-cli consume`"
    return f"{left:,} messages left; consumers in the group: {members}"
