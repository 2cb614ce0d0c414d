"""Saved audiences: their members, the search behind them, and repeating that search."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from qanchor.audience import describe
from qanchor.audience.candidates import CandidateRules
from qanchor.audience.lookalike import LookalikeRequest, Lookalikes, find_lookalikes
from qanchor.audience.population import Population, open_population
from qanchor.errors import AudienceInvalid, InputError, StateError
from qanchor.files import atomic_file
from qanchor.names import USER_ID
from qanchor.registry.audiences import find_audience, register_audience
from qanchor.registry.tables import Audience, new_version
from qanchor.site import Site

LOOKALIKE, DESCRIBE = "lookalike", "describe"

_NAME = re.compile(r"^[a-z0-9][a-z0-9_.-]{0,63}$")
_ROLE = "role"


@dataclass(frozen=True)
class Replay:
    """A saved audience whose search was repeated.

    Args:
        saved: saved audience.
        result: result of the repeated search.
        same: whether the users and their order are the same.
        added: number of users in the new result only.
        removed: number of users in the saved audience only.
        changes: differences in index, space, cut-off or method since it was saved, one sentence each.
    """

    saved: Audience
    result: Lookalikes
    same: bool
    added: int
    removed: int
    changes: tuple[str, ...]


def save_audience(
    site: Site,
    name: str,
    population: Population,
    request: LookalikeRequest,
    result: Lookalikes,
    text: str | None = None,
) -> Audience:
    """Keep the result of a search, with all that it takes to repeat it.

    Args:
        site: audience files and registry.
        name: lower-case letters, digits and `_.-`.
        population: users that were searched.
        request: search that was made.
        result: users that it ranked.
        text: description in words, where there was one.

    Raises:
        AudienceInvalid: the name is invalid, or the result is empty.
    """
    rules = request.rules
    parameters = {
        "k": request.k,
        "threshold": request.threshold,
        "method": request.method,
        "chosen_method": result.choice.method if result.choice else None,
        "held_out_recall": dict(result.choice.recall) if result.choice else {},
        "where": rules.where,
        "include_seeds": rules.include_seeds,
        "include_eventless": rules.include_eventless,
        "exclude_hash": hash_users(rules.exclude) if rules.exclude else None,
        "text": text,
        "words_weight": request.words_weight,
        "as_of": population.as_of.isoformat(),
        "population": result.candidates.population,
    }
    row = Audience(
        version=new_version(),
        name=name,
        kind=LOOKALIKE if text is None else DESCRIBE,
        scenario=population.scenario,
        index_version=population.version,
        fingerprint=population.fingerprint,
        seeds_hash=hash_users(request.seeds) if request.seeds else None,
        parameters=parameters,
    )
    inputs = [(user, "seed") for user in request.seeds] + [(user, "exclude") for user in rules.exclude]
    return write_audience_version(site, row, result.table, inputs)


def write_audience_version(
    site: Site, row: Audience, members: pa.Table, inputs: Sequence[tuple[str, str]] = ()
) -> Audience:
    """Write a version's files, then record it: what is recorded is whole.

    Args:
        site: audience files and registry.
        row: registry row without path, rows and content_hash.
        members: table with user_id, in the order of their ranks.
        inputs: (user id, role) of the users that it was made from.

    Raises:
        AudienceInvalid: the name is invalid, or there are no members.
    """
    if not _NAME.match(row.name):
        raise AudienceInvalid(
            f"the name {row.name!r} is invalid", "Use lower-case letters, digits and _.- (64 at most)."
        )
    if not members.num_rows:
        raise AudienceInvalid(
            f"the audience {row.name!r} would be empty", "Relax the filter or the threshold."
        )
    path = site.home.audiences / row.name / f"{row.version}.parquet"
    roles = {USER_ID: [user for user, _ in inputs], _ROLE: [role for _, role in inputs]}
    schema = pa.schema({USER_ID: pa.string(), _ROLE: pa.string()})
    for table, target in ((pa.table(roles, schema=schema), _inputs_path(path)), (members, path)):
        with atomic_file(target) as staged:
            pq.write_table(table, staged)
    row.path = str(path.relative_to(site.home.root))
    row.rows = members.num_rows
    row.content_hash = members_hash(members)
    return register_audience(site.engine, row)


def read_members(site: Site, audience: Audience) -> pa.Table:
    """The members of a saved audience, best first.

    Raises:
        StateError: the file is missing or was changed; save the audience again.
    """
    path = site.home.root / audience.path
    name = f"{audience.name}@{audience.version}"
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise StateError(f"the members of audience {name} cannot be read", "Save it again.") from error
    if members_hash(table) != audience.content_hash:
        raise StateError(f"the members of audience {name} were changed: {path}", "Save it again.")
    return table


def hash_users(users: Sequence[str]) -> str:
    """SHA-256 of a set of users; their order and repetitions do not count."""
    return hashlib.sha256("\n".join(sorted(set(users))).encode()).hexdigest()


def members_hash(members: pa.Table) -> str:
    """SHA-256 of the members, in their order."""
    return hashlib.sha256("\n".join(members[USER_ID].to_pylist()).encode()).hexdigest()


def replay(site: Site, name: str) -> Replay:
    """Repeat the search of a saved audience, in the index now in service.

    Args:
        site: saved audiences, index, offline store, registry and workspace.
        name: name of the audience, or NAME@VERSION.

    Raises:
        AudienceInvalid: there is none, it is the result of a set operation, or its search fails now.
        StateError: its files were changed.
    """
    saved = find_audience(site.engine, name)
    if saved.scenario is None or saved.kind not in (LOOKALIKE, DESCRIBE):
        raise AudienceInvalid(
            f"audience {name!r} was made by {saved.kind} of others", "Combine these audiences again."
        )
    before = read_members(site, saved)
    population = open_population(site, saved.scenario)
    request = _request_of(site, saved)
    text = saved.parameters["text"]
    words = describe.read_words(site, population, text).scorer if text is not None else None
    changes = _changes(saved, population)
    try:
        result = find_lookalikes(population, request, words)
    except InputError as error:
        reason = "; ".join([error.problem, *changes])
        raise AudienceInvalid(f"audience {name!r} cannot be made again: {reason}", error.remedy) from error
    chosen = result.choice.method if result.choice else None
    if chosen != saved.parameters["chosen_method"]:
        changes.append(f"the method is {chosen}, it was {saved.parameters['chosen_method']}")
    then, now = set(before[USER_ID].to_pylist()), set(result.table[USER_ID].to_pylist())
    same = members_hash(result.table) == saved.content_hash
    if not same and not changes:
        changes.append("the features or events before the cut-off have changed")
    return Replay(saved, result, same, len(now - then), len(then - now), tuple(changes))


def _request_of(site: Site, saved: Audience) -> LookalikeRequest:
    kept = saved.parameters
    seeds, exclude = _read_inputs(site.home.root / saved.path)
    rules = CandidateRules(kept["where"], exclude, kept["include_seeds"], kept["include_eventless"])
    return LookalikeRequest(seeds, kept["k"], kept["method"], kept["threshold"], rules, kept["words_weight"])


def _read_inputs(path: Path) -> tuple[list[str], list[str]]:
    try:
        rows = pq.read_table(_inputs_path(path)).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise StateError(f"{_inputs_path(path)} cannot be read", "Save the audience again.") from error
    seeds, exclude = ([row[USER_ID] for row in rows if row[_ROLE] == role] for role in ("seed", "exclude"))
    return seeds, exclude


def _changes(saved: Audience, population: Population) -> list[str]:
    changes = []
    if saved.fingerprint != population.fingerprint:
        changes.append("the embedding space is another one: a new model, prompt or query")
    if saved.index_version != population.version:
        changes.append(f"the index is {population.version}, it was {saved.index_version}")
    if saved.parameters["as_of"] != population.as_of.isoformat():
        now, then = population.as_of.isoformat(), saved.parameters["as_of"]
        changes.append(f"the embeddings are as of {now}, they were as of {then}")
    return changes


def _inputs_path(path: Path) -> Path:
    return path.with_suffix(".inputs.parquet")
