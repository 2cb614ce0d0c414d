"""Sets of saved audiences: what they share, and new audiences made of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, Literal

import numpy as np
import pyarrow as pa

from qanchor.audience.saved import read_members, write_audience_version
from qanchor.errors import AudienceInvalid
from qanchor.names import USER_ID
from qanchor.registry.audiences import find_audience
from qanchor.registry.tables import Audience, new_version
from qanchor.site import Site

Operation = Literal["union", "intersect", "subtract"]
OPERATIONS: Final[tuple[Operation, ...]] = ("union", "intersect", "subtract")


@dataclass(frozen=True)
class Shared:
    """The overlap of two audiences.

    Args:
        one: name and version of the first.
        other: name and version of the second.
        users: number of users in the first.
        other_users: number of users in the second.
        both: number of users in both.
    """

    one: str
    other: str
    users: int
    other_users: int
    both: int

    @property
    def jaccard(self) -> float:
        """Users in both, as a share of the users in either."""
        return self.both / (self.users + self.other_users - self.both)


def combine(site: Site, operation: Operation, names: Sequence[str], into: str) -> Audience:
    """Save the union, the intersection or the difference of audiences as a new one.

    Users are ranked by the best rank that they have in any of the audiences; a difference keeps the first's
    order.

    Args:
        site: saved audiences and their registry.
        operation: set operation; 'subtract' removes all later audiences from the first.
        names: two or more audiences, as NAME or NAME@VERSION.
        into: name of the new audience.

    Raises:
        AudienceInvalid: there are fewer than two, one does not exist, or the result is empty.
        StateError: the members of one were changed.
    """
    audiences, members = _read(site, names)
    kept = _kept(operation, members)
    best: dict[str, int] = {}
    for ranked in members if operation != "subtract" else members[:1]:
        for rank, user in enumerate(ranked):
            best[user] = min(rank, best.get(user, rank))
    users = sorted(kept, key=lambda user: (best[user], user))
    table = pa.table({"rank": np.arange(1, len(users) + 1), USER_ID: pa.array(users, pa.string())})
    scenarios = {audience.scenario for audience in audiences}
    row = Audience(
        version=new_version(),
        name=into,
        kind=operation,
        scenario=scenarios.pop() if len(scenarios) == 1 else None,
        parameters={"of": [_full_name(audience) for audience in audiences]},
    )
    return write_audience_version(site, row, table)


def compare(site: Site, names: Sequence[str]) -> list[Shared]:
    """How many users each pair of audiences shares.

    Args:
        site: saved audiences and their registry.
        names: two or more audiences, as NAME or NAME@VERSION.

    Raises:
        AudienceInvalid: there are fewer than two, or one does not exist.
        StateError: the members of one were changed.
    """
    audiences, members = _read(site, names)
    named = [(_full_name(audience), set(users)) for audience, users in zip(audiences, members, strict=True)]
    return [
        Shared(one, other, len(users), len(other_users), len(users & other_users))
        for (one, users), (other, other_users) in combinations(named, 2)
    ]


def _read(site: Site, names: Sequence[str]) -> tuple[list[Audience], list[list[str]]]:
    if len(names) < 2:
        raise AudienceInvalid("one audience alone has nothing to be combined with", "Name two or more.")
    audiences = [find_audience(site.engine, name) for name in names]
    return audiences, [read_members(site, audience)[USER_ID].to_pylist() for audience in audiences]


def _kept(operation: Operation, members: Sequence[Sequence[str]]) -> set[str]:
    first, others = set(members[0]), [set(users) for users in members[1:]]
    if operation == "union":
        return first.union(*others)
    if operation == "intersect":
        return first.intersection(*others)
    return first.difference(*others)


def _full_name(audience: Audience) -> str:
    return f"{audience.name}@{audience.version}"
