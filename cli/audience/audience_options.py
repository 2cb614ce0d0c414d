"""The options that `lookalike` and `audience` share, and the notes that both print."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from qanchor.audience.lookalike import LookalikeRequest, Lookalikes
    from qanchor.audience.methods import Choice
    from qanchor.audience.population import Population


class MethodName(StrEnum):
    """What ranks."""

    auto = "auto"
    centroid = "centroid"
    centroids = "centroids"
    nearest = "nearest"
    classifier = "classifier"


ScenarioOption = Annotated[
    str, typer.Option("--scenario", metavar="NAME", help="Whose space is searched.", show_default=False)
]
SeedsOption = Annotated[
    Path,
    typer.Option("--seeds", metavar="FILE", help="One user_id a line, or CSV or Parquet with user_id."),
]
MaybeSeedsOption = Annotated[
    Path | None,
    typer.Option("--seeds", metavar="FILE", help="One user_id a line, or CSV or Parquet with user_id."),
]
CountOption = Annotated[
    int | None,
    typer.Option("--k", "-k", min=1, metavar="N", help="How many users; default: 100.", show_default=False),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option("--threshold", metavar="T", help="Everybody with at least this score.", show_default=False),
]
MethodOption = Annotated[
    MethodName,
    typer.Option(
        help="centroid: like the seeds as a whole; centroids: like one of several kinds of them; "
        "nearest: near several of them; classifier: what sets them apart from others; "
        "auto: whichever finds most held-out seeds."
    ),
]
WhereOption = Annotated[
    str | None,
    typer.Option("--where", metavar="SQL", help="A condition on profile and activity features."),
]
ExcludeOption = Annotated[
    Path | None, typer.Option("--exclude", metavar="FILE", help="Users that must not be found.")
]
IncludeSeedsOption = Annotated[
    bool, typer.Option("--include-seeds/--exclude-seeds", help="Whether seeds may be found too.")
]
IncludeEventlessOption = Annotated[
    bool,
    typer.Option(
        "--include-eventless/--exclude-eventless", help="Whether users without events may be found."
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Write all rows here, as .parquet, .csv, .json or .jsonl."),
]


def make_rules(where: str | None, exclude: Path | None, include_seeds: bool, include_eventless: bool) -> Any:
    """The CandidateRules of a command's options."""
    from qanchor.audience.candidates import CandidateRules
    from qanchor.user_files import read_user_list

    banned = [] if exclude is None else read_user_list(exclude, "exclusion")
    return CandidateRules(where, banned, include_seeds, include_eventless)


def count(number: int, what: str) -> str:
    """'1 seed', '2 seeds'."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def describe_choice(choice: "Choice") -> str:
    """One sentence: which method, and by how much it won."""
    if not choice.recall:
        return f"method {choice.method}"
    shares = ", ".join(f"{share:.0%}" for share in choice.shares)
    said = (
        f"method {choice.method}: finds {choice.recall[choice.method]:.1%} of "
        f"{count(choice.held_out, 'held-out seed')} among the best {shares} of users, on average"
    )
    others = choice.runner_up
    return said if others is None else f"{said}; {others[0]} finds {others[1]:.1%}"


def find_notes(found: "Lookalikes", population: "Population", request: "LookalikeRequest") -> list[str]:
    """What a marketer has to know of a list before using it, one line each."""
    notes = _seed_notes(found)
    left = found.candidates
    for number, what in (
        (left.eventless, "without events in the history window, who all share one vector"),
        (left.excluded, "of the exclusions"),
        (left.filtered, "who fail the filter"),
    ):
        if number:
            notes.append(f"{count(number, 'user')} {what} left out")
    if left.undecided:
        notes.append(f"of {count(left.undecided, 'user')} too little is known for the filter; they fail it")
    if left.unknown_excluded:
        notes.append(f"{count(left.unknown_excluded, 'exclusion')} unknown to the index")
    if population.eventless is None:
        notes.append("which users have no events is not known: the index's embeddings are gone")
    if population.is_behind:
        notes.append(
            "the index is older than the embeddings; run "
            f"`qanchor-cli index build --scenario {population.scenario}`"
        )
    if request.threshold is not None and not found.table.num_rows:
        notes.append(f"nobody scores {request.threshold:g} or more")
    return notes


def _seed_notes(found: "Lookalikes") -> list[str]:
    notes: list[str] = []
    if found.seeds is None:
        return notes
    for users, why in (
        (found.seeds.unknown, "without an embedding"),
        (found.seeds.without_events, "without events in the history window"),
    ):
        if users:
            some = ", ".join(users[:5]) + (", ..." if len(users) > 5 else "")
            notes.append(f"{count(len(users), 'seed')} {why} left out: {some}")
    if found.seeds.duplicates:
        notes.append(f"{count(found.seeds.duplicates, 'repeated seed')} left out")
    return notes


def found_as_json(found: "Lookalikes", population: "Population") -> dict[str, object]:
    """A search's result for programs."""
    left, seeds, choice = found.candidates, found.seeds, found.choice
    return {
        "scenario": population.scenario,
        "index": population.version,
        "fingerprint": population.fingerprint,
        "as_of": population.as_of,
        "method": choice.method if choice else None,
        "held_out_recall": dict(choice.recall) if choice else {},
        "held_out_shares": list(choice.shares) if choice else [],
        "seeds": len(seeds.rows) if seeds else 0,
        "unknown_seeds": list(seeds.unknown) if seeds else [],
        "seeds_without_events": list(seeds.without_events) if seeds else [],
        "duplicate_seeds": seeds.duplicates if seeds else 0,
        "population": left.population,
        "left_out": {
            "without_events": left.eventless,
            "seeds": left.seeds,
            "excluded": left.excluded,
            "unknown_exclusions": left.unknown_excluded,
            "filtered": left.filtered,
            "undecided": left.undecided,
        },
        "users": found.table.to_pylist(),
    }
