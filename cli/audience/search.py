"""One search of the `lookalike` and `audience` commands: made, explained and printed."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cli.audience.options import SearchOptions
from cli.output import print_json, print_table
from cli.stages import working
from qanchor.site import Site

if TYPE_CHECKING:
    import pyarrow as pa

    from qanchor.audience.describe import Words
    from qanchor.audience.lookalike import LookalikeRequest, Lookalikes
    from qanchor.audience.methods import Choice
    from qanchor.audience.population import Population, Seeds
    from qanchor.audience.profile import Trait

_SHOWN = 50


@dataclass(frozen=True)
class Search:
    """A search with its result.

    Args:
        site: installation that was searched.
        population: users of the scenario's index.
        request: search that was made.
        words: the description in words, as the space holds it; None without one.
        result: users that it ranked.
    """

    site: Site
    population: "Population"
    request: "LookalikeRequest"
    words: "Words | None"
    result: "Lookalikes"


def run_search(options: SearchOptions, out: Path | None = None) -> Search:
    """Open a scenario's index and search it; an output file that could not be written is refused first."""
    from qanchor.audience.describe import read_words
    from qanchor.audience.lookalike import find_lookalikes
    from qanchor.audience.population import open_population
    from qanchor.user_files import check_result_file

    site = Site.open()
    site.workspace.scenario(options.scenario)
    if out is not None:
        check_result_file(out)
    request = options.request()
    with working("searching users"):
        population = open_population(site, options.scenario)
        words = None if options.text is None else read_words(site, population, options.text)
        result = find_lookalikes(population, request, words.scorer if words else None)
    return Search(site, population, request, words, result)


def show_search(search: Search, title: str, out: Path | None, as_json: bool) -> None:
    """Write and print the result; for words also how many of its users have events that name them."""
    from qanchor.user_files import write_result

    result, words, notes = search.result, search.words, search_notes(search)
    mentions = None
    if words is not None and words.matched and len(result.rows) > 1:
        from qanchor.audience.profile import profile_mentions

        mentions = profile_mentions(
            search.population, result.rows, result.candidates, search.site.event_log, words.matched
        )
    if out is not None:
        write_result(result.table, out)
        notes.append(f"wrote {result.table.num_rows:,} rows to {out}")
    if as_json:
        content = _as_json(search)
        if words is not None:
            content |= {
                "words": list(words.matched),
                "mentions": asdict(mentions) if mentions else None,
            }
        print_json(content)
    else:
        show_members(result.table, title)
        typer.echo(_summary(search))
        if mentions is not None:
            typer.echo(_mentions_summary(mentions))
        if result.table.num_rows > _SHOWN and out is None:
            notes.append(f"{result.table.num_rows - _SHOWN:,} more rows: --out FILE or --json gives all")
    print_notes(notes)


def show_members(table: "pa.Table", title: str) -> None:
    """The first rows of an audience as a table, the nearest seeds in one cell."""
    rows = table.slice(0, _SHOWN).to_pylist()
    for row in rows:
        if "nearest_seeds" in row:
            row["nearest_seeds"] = " ".join(row["nearest_seeds"] or []) or None
    if rows:
        print_table(title, rows)


def print_notes(notes: list[str]) -> None:
    """Remarks on a result, one line each on stderr."""
    for note in notes:
        typer.echo(f"note: {note}", err=True)


def count(number: int, noun: str) -> str:
    """'1 seed', '2 seeds'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def search_notes(search: Search) -> list[str]:
    """What a marketer has to know of a list before using it, one line each."""
    population, result, words = search.population, search.result, search.words
    left, threshold = result.candidates, search.request.threshold
    remarks = (
        (
            left.eventless,
            f"{count(left.eventless, 'user')} without events in the history window, who all share one vector,"
            " left out",
        ),
        (left.excluded, f"{count(left.excluded, 'user')} of the exclusions left out"),
        (left.filtered, f"{count(left.filtered, 'user')} who fail the filter left out"),
        (
            left.undecided,
            f"of {count(left.undecided, 'user')} too little is known for the filter; they fail it",
        ),
        (left.unknown_excluded, f"{count(left.unknown_excluded, 'exclusion')} unknown to the index"),
        (
            population.eventless is None,
            "which users have no events is not known: the index's embeddings were deleted",
        ),
        (
            population.is_behind,
            "the index is older than the embeddings; run "
            f"`qanchor-cli index build --scenario {population.scenario}`",
        ),
        (threshold is not None and not result.table.num_rows, f"nobody scores {threshold or 0:g} or more"),
        (
            words is not None and not words.matched,
            "no word of the text occurs in the events: it was embedded as a whole, which tells little",
        ),
        (
            words is not None and words.is_tuned,
            "the users were read with a soft prompt, which no words were aligned with",
        ),
    )
    notes = [] if result.seeds is None else _seed_notes(result.seeds)
    return notes + [remark for applies, remark in remarks if applies]


def _seed_notes(seeds: "Seeds") -> list[str]:
    notes = []
    for users, reason in (
        (seeds.unknown, "without an embedding"),
        (seeds.without_events, "without events in the history window"),
    ):
        if users:
            some = ", ".join(users[:5]) + (", ..." if len(users) > 5 else "")
            notes.append(f"{count(len(users), 'seed')} {reason} left out: {some}")
    if seeds.duplicates:
        notes.append(f"{count(seeds.duplicates, 'repeated seed')} left out")
    return notes


def _summary(search: Search) -> str:
    """One sentence: what the users are like, among how many, and by which method."""
    result, scenario = search.result, search.population.scenario
    among = f"among {result.candidates.population:,} users"
    seeds = count(len(result.seeds.rows), "seed") if result.seeds else ""
    method = _describe_choice(result.choice) if result.choice else ""
    if search.words is None:
        return f"{scenario}: like {seeds} {among}, {method}"
    like = "the words " + (", ".join(search.words.matched) or repr(search.words.text))
    return f"{scenario}: like {like}{f' and {seeds}, {method}' if seeds else ''}; {among}"


def _describe_choice(choice: "Choice") -> str:
    """Which method ranks, and how it compares with the runner-up."""
    if not choice.recall:
        return f"method {choice.method}"
    shares = ", ".join(f"{share:.0%}" for share in choice.shares)
    sentence = (
        f"method {choice.method}: finds {choice.recall[choice.method]:.1%} of "
        f"{count(choice.held_out, 'held-out seed')} among the best {shares} of users, on average"
    )
    others = choice.runner_up
    return sentence if others is None else f"{sentence}; {others[0]} finds {others[1]:.1%}"


def _mentions_summary(mentions: "Trait") -> str:
    return (
        f"events that name these words: {mentions.audience:.1f} a user, {mentions.base:.1f} among the others "
        f"({mentions.effect:+.2f} standard deviations, 95% {mentions.low:+.2f} to {mentions.high:+.2f})"
    )


def _as_json(search: Search) -> dict[str, Any]:
    population, result = search.population, search.result
    left, seeds, choice = result.candidates, result.seeds, result.choice
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
        "users": result.table.to_pylist(),
    }
