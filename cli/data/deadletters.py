"""`qanchor-cli deadletters`: rejected messages, their reasons, and how to send them again."""

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cli.groups import command_group
from cli.output import JsonOption, print_json, print_table
from qanchor.site import Site

if TYPE_CHECKING:
    from consumers.letter_replay import DeadLetterSummary, Letter
    from qanchor.events.refused_files import RefusedRows

app = command_group("deadletters", "List rejected messages, and send them again.")

ReasonOption = Annotated[str | None, typer.Option(help="Only messages rejected for this reason.")]


@app.command("list")
def list_letters(
    reason: ReasonOption = None,
    limit: Annotated[int, typer.Option(min=0, help="Number of messages to show, newest first.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Count rejected messages by reason, and show the newest.

    A message that was written to the dead-letter topic more than once counts once. Contents are not shown.

    Example: qanchor-cli deadletters list --reason bad_time
    """
    from consumers.letter_replay import summarize_letters
    from qanchor.errors import BrokerUnavailable
    from qanchor.events.refused_files import read_refused_files
    from qanchor.registry.ledger import has_offsets

    site = Site.open()
    kafka = site.settings.kafka
    files = [file for file in read_refused_files(site.home.dead_letters) if reason in (None, file.reason)]
    problem: BrokerUnavailable | None = None
    try:
        summary = summarize_letters(kafka, reason, limit)
    except BrokerUnavailable as error:
        if not files:
            raise
        summary, problem = None, error
    if as_json:
        print_json(_document(summary, files))
    else:
        _show_topic(summary, kafka.dead_letter_topic, reason)
        if files:
            print_table("Rows of event files that were refused", [asdict(file) for file in files])
    if problem is not None:
        if has_offsets(site.engine, kafka.group):
            raise problem
        print(f"dead letters of Kafka are unknown: {problem.problem}", file=sys.stderr)


def _document(summary: "DeadLetterSummary | None", files: "list[RefusedRows]") -> dict[str, object]:
    return {
        "letters": None if summary is None else summary.letters,
        "reasons": [] if summary is None else _reason_rows(summary),
        "newest": [] if summary is None else [_row(summary, letter) for letter in summary.newest],
        "foreign": None if summary is None else summary.foreign,
        "files": [asdict(file) for file in files],
    }


def _show_topic(summary: "DeadLetterSummary | None", topic: str, reason: str | None) -> None:
    if summary is None:
        return
    if not summary.letters:
        print(f"no dead letters{f' of reason {reason}' if reason else ''} in topic {topic}")
    else:
        print_table(f"Dead letters of topic {topic}", _reason_rows(summary))
    if summary.newest:
        rows = [_row(summary, letter) for letter in summary.newest]
        print_table(f"The newest {len(rows)}", rows)
    if summary.foreign:
        print(f"foreign messages in the topic, left alone: {summary.foreign:,}")


def _reason_rows(summary: "DeadLetterSummary") -> list[dict[str, object]]:
    return [
        {"reason": name, "letters": letters, "sent_back": back, "refused_again": again}
        for name, (letters, back, again) in summary.reasons.items()
    ]


def _row(summary: "DeadLetterSummary", letter: "Letter") -> dict[str, object]:
    return {
        "origin": str(letter.origin),
        "reason": letter.reason,
        "detail": letter.detail,
        "refused_at": datetime.fromtimestamp(letter.refused_ms // 1000, UTC),
        "sent_back": letter.first in summary.replayed,
    }


@app.command()
def replay(
    reason: ReasonOption = None,
    to: Annotated[
        str | None, typer.Option(metavar="TOPIC", help="Topic to send to; default: the one each came from.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Include messages that were sent again before.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Send rejected messages again, once the cause is repaired.

    Each goes to the topic that it came from, byte for byte. A message is sent again once only, even if it is
    rejected again, unless --again is given.

    Example: qanchor-cli deadletters replay --reason unknown_modality
    """
    from consumers.letter_replay import replay_letters

    kafka = Site.open().settings.kafka
    done = replay_letters(kafka, lambda letter: reason in (None, letter.reason), to, again)
    if as_json:
        print_json({"sent": done.sent, "sent_before": done.already, "truncated": done.truncated})
        return
    print(f"sent back{f' to topic {to}' if to else ''}: {done.sent:,}")
    if done.already:
        print(f"left alone, because sent back before: {done.already:,} (--again sends them once more)")
    if done.truncated:
        print(f"left alone, because their values did not fit into the dead-letter topic: {done.truncated:,}")
