"""`qanchor-cli deadletters`: rejected messages, their reasons, and how to send them again."""

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cli.groups import command_group
from cli.output import JsonOption, print_json, print_table
from qanchor.site import Site

if TYPE_CHECKING:
    from consumers.letter_replay import DeadLetterSummary, Letter

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
    from consumers.letter_replay import read_letters

    kafka = Site.open().settings.kafka
    box = read_letters(kafka)
    letters = [letter for letter in box.letters if reason in (None, letter.reason)]
    reasons = _by_reason(box, letters)
    newest = [_row(box, letter) for letter in letters[::-1][:limit]]
    if as_json:
        print_json({"letters": len(letters), "reasons": reasons, "newest": newest})
    elif not letters:
        print(f"no dead letters{f' of reason {reason}' if reason else ''} in topic {kafka.dead_letter_topic}")
    else:
        print_table(f"Dead letters of topic {kafka.dead_letter_topic}", reasons)
        if newest:
            print_table(f"The newest {len(newest)}", newest)


def _by_reason(box: "DeadLetterSummary", letters: "list[Letter]") -> list[dict[str, object]]:
    counts = Counter(letter.reason for letter in letters)
    back = Counter(letter.reason for letter in letters if letter.first in box.replayed)
    again = Counter(letter.reason for letter in letters if letter.was_sent_back)
    return [
        {"reason": name, "letters": n, "sent_back": back[name], "refused_again": again[name]}
        for name, n in counts.most_common()
    ]


def _row(box: "DeadLetterSummary", letter: "Letter") -> dict[str, object]:
    return {
        "origin": str(letter.origin),
        "reason": letter.reason,
        "detail": letter.detail,
        "refused_at": datetime.fromtimestamp(letter.refused_ms // 1000, UTC),
        "sent_back": letter.first in box.replayed,
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
        print_json({"sent": done.sent, "sent_before": done.already})
        return
    print(f"sent back{f' to topic {to}' if to else ''}: {done.sent:,}")
    if done.already:
        print(f"left alone, because sent back before: {done.already:,} (--again sends them once more)")
