"""Which users a search may return: not seeds, exclusions, users without events, users who fail a filter."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qanchor.audience.filters import apply_filter, parse_filter
from qanchor.audience.population import Mask, Population
from qanchor.errors import FilterInvalid, NotReady, SeedsInvalid
from qanchor.storage.vectors import Rows


@dataclass(frozen=True)
class CandidateRules:
    """Which users a search may return.

    Args:
        where: SQL condition on features; None: no condition.
        exclude: ids of users to leave out, such as last month's audience.
        include_seeds: whether seeds are candidates too.
        include_eventless: whether users without events are candidates: all of them have the same vector.
    """

    where: str | None = None
    exclude: Sequence[str] = ()
    include_seeds: bool = False
    include_eventless: bool = False


@dataclass(frozen=True)
class Candidates:
    """The users that a search may return, and the number left out for each reason.

    A user counts for the first reason that applies.

    Args:
        allowed: bool [rows], the candidates.
        eventless: users without events.
        seeds: seed users.
        excluded: users of the exclusion list.
        unknown_excluded: users of the exclusion list that the index does not have.
        filtered: users who fail the filter.
        undecided: users who fail the filter because too little is known of them.
    """

    allowed: Mask
    eventless: int
    seeds: int
    excluded: int
    unknown_excluded: int
    filtered: int
    undecided: int

    @property
    def population(self) -> int:
        """Number of candidates."""
        return int(self.allowed.sum())

    def sample(self, most: int) -> Rows:
        """Rows of at most `most` candidates, int64, the same in every call."""
        rows = np.flatnonzero(self.allowed)
        if len(rows) <= most:
            return rows
        return np.sort(np.random.default_rng(7).choice(rows, most, replace=False))


def find_candidates(population: Population, rules: CandidateRules, seeds: Rows) -> Candidates:
    """The candidates of a search.

    Args:
        population: users of the index.
        rules: rules of who is left out.
        seeds: int64 [seeds], rows of the seeds in use.

    Raises:
        FilterInvalid: the filter is invalid, or nobody passes it.
        SeedsInvalid: there is no candidate left.
        NotReady: a filter needs features, and there are none.
    """
    index = population.index
    left = np.zeros(index.size, bool)
    left[index.live_rows()] = True
    seed_mask = np.zeros(index.size, bool)
    seed_mask[seeds] = not rules.include_seeds
    eventless = population.eventless
    if eventless is None or rules.include_eventless:
        eventless = np.zeros(index.size, bool)
    counts = []
    for banned in (eventless, seed_mask, population.mask_of(rules.exclude)):
        counts.append(int((left & banned).sum()))
        left &= ~banned
    without_events, seeded, excluded = counts
    unknown = int((index.rows_of(list(dict.fromkeys(rules.exclude))) < 0).sum())
    if not left.any():
        raise SeedsInvalid(
            "nobody is left to be found", "Give fewer seeds or exclusions, or use --include-seeds."
        )
    passes, undecided = _filtered(population, rules.where, left)
    if not passes.any():
        raise FilterInvalid(
            f"nobody of {int(left.sum()):,} users passes the filter {rules.where!r}", "Relax the filter."
        )
    filtered = int((left & ~passes).sum())
    return Candidates(passes, without_events, seeded, excluded, unknown, filtered, undecided)


def _filtered(population: Population, where: str | None, left: Mask) -> tuple[Mask, int]:
    """Who passes, bool [rows], and for how many users the filter is undecided."""
    if where is None:
        return left, 0
    if population.features is None:
        raise NotReady("there are no features to filter by", "Run `qanchor-cli backfill`.")
    condition = parse_filter(where, population.features.columns)
    rows = np.flatnonzero(left)
    result = apply_filter(condition, population.features, population.index.user_ids(rows))
    passes = np.zeros(len(left), bool)
    passes[rows[result.passes]] = True
    return passes, result.undecided
