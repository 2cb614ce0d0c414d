"""`qanchor-cli consume`: events from Kafka into the event log."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import open_context
from cli.output import JsonOption, print_json, print_table, progress

if TYPE_CHECKING:
    from consumers.event_consumer import ConsumeSummary


def run(
    name: Annotated[
        str | None, typer.Option(help="Of this consumer in its group; default: the host.")
    ] = None,
    stop_at_end: Annotated[bool, typer.Option(help="End once everything there now is written.")] = False,
    until_idle: Annotated[float | None, typer.Option(help="End after this many idle seconds.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Prometheus metrics on 127.0.0.1.")] = None,
    skip_deleted: Annotated[bool, typer.Option(help="Go on where brokers deleted unread events.")] = False,
    online: Annotated[bool, typer.Option("--online", help="Keep online activity fresh, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Stream events from Kafka into the event log, each exactly once, until it is interrupted.

    Bad messages go to the dead-letter topic with their reasons. Killed at any moment, the next run
    goes on where the ledger stands. Several consumers share the partitions: give each its own --name.

    Example: qanchor-cli consume --stop-at-end
    """
    import threading

    from consumers.event_consumer import StopRule
    from consumers.running import ConsumeOptions, run_consumer
    from consumers.stopping import end_process, stop_on_signals

    context = open_context()
    stop = threading.Event()
    stop_on_signals(stop)
    options = ConsumeOptions(name, StopRule(until_idle, stop_at_end), metrics_port, skip_deleted, online)
    with progress() as bar:
        places = (context.workspace, context.home, context.engine)
        summary = run_consumer(context.settings, places, options, stop, bar)
    if as_json:
        print_json(
            {
                "events": summary.events,
                "dead_letters": dict(summary.rejected.most_common()),
                "writes": summary.writes,
                "fenced": summary.fenced,
                "seconds": round(summary.seconds, 3),
                "events_per_second": round(summary.rate),
                "lag": {str(partition): left for partition, left in sorted(summary.lag.items())},
            }
        )
    else:
        _show(summary, context.settings.kafka.dead_letter_topic)
    if stop.is_set():
        end_process(0)


def _show(summary: "ConsumeSummary", dead_letter_topic: str) -> None:
    rows = [{"outcome": "in the event log", "events": summary.events}]
    rows += [{"outcome": f"dead letter: {why}", "events": n} for why, n in summary.rejected.most_common()]
    rows.append({"outcome": "left on the topic", "events": sum(summary.lag.values())})
    print_table("Consumed", rows)
    print(f"{summary.rate:,.0f} events/s over {summary.seconds:.1f} s, {summary.writes:,} writes")
    if summary.rejected:
        print(f"dead letters with reasons: topic {dead_letter_topic}")
