"""`qanchor-cli zero-label`: scores of scenarios that have words and no labels."""

from typing import TYPE_CHECKING, Any

import typer

from cli.groups import command_group
from cli.output import JsonOption, print_json, print_table
from cli.scenarios import OutOption, ScenarioOption, UsersOption
from cli.stages import working
from qanchor.site import Site

if TYPE_CHECKING:
    from qanchor.audience.zero_label import Statement

app = command_group("zero-label", "Score users by a scenario's answers, without labels.")
_SHOWN = 20


@app.command()
def score(
    scenario: ScenarioOption,
    users: UsersOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score users by a scenario's positive and negative answer.

    A score is how much closer a user is to the positive answer than to the negative one; it ranks users and
    is no probability. The answers are those of scenarios.yaml; no label is read. The output shows how they
    were understood: words of the log, activity, spending, and whether they affirm or deny them.

    Example: qanchor-cli zero-label score --scenario takeout --out scores.csv
    """
    from qanchor.audience.zero_label import score_by_words
    from qanchor.user_files import check_result_file, read_user_list, write_result

    if out is not None:
        check_result_file(out)
    site = Site.open()
    listed = None if users is None else read_user_list(users)
    with working("scoring users"):
        scores = score_by_words(site, scenario, listed)
    if out is not None:
        write_result(scores.table, out)
    spec, scorer = site.workspace.scenario(scenario), scores.scorer
    answers = [
        {"answer": name, "words": text, "understood": _understood(statement)}
        for name, text, statement in (
            ("positive", spec.positive, scorer.positive),
            ("negative", spec.negative, scorer.negative),
        )
    ]
    if as_json:
        summary: dict[str, Any] = {"scenario": scenario, "users": scores.table.num_rows, "answers": answers}
        summary |= {"tuned": scores.is_tuned, "no_vector": scores.without_vector}
        print_json(summary | ({"out": str(out)} if out else {"scores": scores.table.to_pylist()}))
        return
    print_table(f"what the words of {scenario} say", answers)
    if not out:
        print_table("highest scores", scores.table.slice(0, _SHOWN).to_pylist())
    for note in _notes(scores.is_tuned, scorer.positive.is_empty, scores.without_vector):
        typer.echo(f"note: {note}", err=True)


def _understood(statement: "Statement") -> str:
    subjects = [*statement.words, *(name for name in ("activity", "spending") if getattr(statement, name))]
    if not subjects:
        return "nothing"
    return f"{'little' if statement.denied else 'much'} of {', '.join(subjects)}"


def _notes(is_tuned: bool, is_empty: bool, without_vector: int) -> list[str]:
    notes = []
    if is_tuned:
        notes.append("the users were read with a soft prompt, which no words were aligned with")
    if is_empty:
        notes.append("neither answer nor query names anything that the log knows: the scores tell little")
    if without_vector:
        notes.append(f"{without_vector:,} of the users have no vector and no score")
    return notes
