"""Who may be found: everybody, less seeds, exclusions, users without events and those who fail a filter."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qanchor.audience.filters import apply_filter, parse_filter
from qanchor.audience.population import Mask, Population
from qanchor.errors import FilterInvalid, NotReady, SeedsInvalid
from qanchor.storage.vectors import Rows


@dataclass(frozen=True)
class CandidateRules:
    """Which users may be found.

    Args:
        where: SQL condition on features, or None.
        exclude: user ids that must not be found, such as last month's audience.
        include_seeds: whether seeds may be found too.
        include_eventless: whether users without events may be found: all of them have the same vector.
    """

    where: str | None = None
    exclude: Sequence[str] = ()
    include_seeds: bool = False
    include_eventless: bool = False


@dataclass(frozen=True)
class Candidates:
    """Who may be found, and how many are left out for which reason; each user counts for the first that
    holds.

    Args:
        allowed: bool [rows].
        eventless: users without events.
        seeds: seeds.
        excluded: users that were to be excluded.
        unknown_excluded: of the exclusions, how many the index does not have.
        filtered: users who fail the filter.
        undecided: of these, users of whom too little is known to say.
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
        """How many users may be found."""
        return int(self.allowed.sum())

    def sample(self, most: int, seed: int = 7) -> Rows:
        """Rows of some who may be found, int64, the same for the same seed."""
        rows = np.flatnonzero(self.allowed)
        if len(rows) <= most:
            return rows
        return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def find_candidates(population: Population, rules: CandidateRules, seeds: Rows) -> Candidates:
    """Work out who may be found.

    Args:
        population: the users.
        rules: who is left out.
        seeds: int64 [seeds], rows of the seeds that are searched with.

    Raises:
        FilterInvalid: the filter does not hold, or nobody passes it.
        SeedsInvalid: nobody is left to be found.
        NotReady: a filter is given where there are no features.
    """
    size = population.index.size
    left = np.zeros(size, bool)
    left[population.index.live_rows()] = True
    counts: list[int] = []
    for banned in (
        _eventless(population, rules),
        _seeds(size, rules, seeds),
        population.mask_of(rules.exclude),
    ):
        counts.append(int((left & banned).sum()))
        left &= ~banned
    unknown = int((population.index.rows_of(list(dict.fromkeys(rules.exclude))) < 0).sum())
    if not left.any():
        raise SeedsInvalid(
            "nobody is left to be found", "Give fewer seeds or exclusions, or use --include-seeds."
        )
    passes, undecided = _filtered(population, rules.where, left)
    if not passes.any():
        raise FilterInvalid(
            f"nobody of {int(left.sum()):,} users passes the filter {rules.where!r}", "Ask for less."
        )
    eventless, seeded, excluded = counts
    filtered = int((left & ~passes).sum())
    return Candidates(passes, eventless, seeded, excluded, unknown, filtered, undecided)


def _eventless(population: Population, rules: CandidateRules) -> Mask:
    if population.eventless is None or rules.include_eventless:
        return np.zeros(population.index.size, bool)
    return population.eventless


def _seeds(size: int, rules: CandidateRules, seeds: Rows) -> Mask:
    mask = np.zeros(size, bool)
    if not rules.include_seeds:
        mask[seeds] = True
    return mask


def _filtered(population: Population, where: str | None, left: Mask) -> tuple[Mask, int]:
    """Who passes, bool [rows], and of how many it cannot be said."""
    if where is None:
        return left, 0
    if population.features is None:
        raise NotReady("there are no features to filter by", "Run `qanchor-cli backfill`.")
    chosen = parse_filter(where, population.features.columns)
    rows = np.flatnonzero(left)
    result = apply_filter(chosen, population.features, population.index.user_ids(rows))
    passes = np.zeros(len(left), bool)
    passes[rows[result.passes]] = True
    return passes, result.undecided
