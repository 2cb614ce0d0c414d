"""How an audience differs from everybody else: how active its users are, and what they do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qanchor.audience.candidates import Candidates
from qanchor.audience.population import Population
from qanchor.errors import NotReady
from qanchor.metrics import Interval, normal_quantile
from qanchor.model.features import signed_log
from qanchor.names import USER_ID
from qanchor.storage.event_log import EventLog
from qanchor.storage.sql import Connection, literal, quote
from qanchor.storage.vectors import Rows
from qanchor.workspace import Workspace

_MOST_USERS = 20_000
_FEWEST_USERS = 10
_LONGEST_VALUE = 60
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Trait:
    """One respect in which the audience may differ from the base.

    Args:
        kind: 'level' (a mean of logarithms), 'modality' or 'category' (shares of users).
        name: a feature, a modality, or modality, field and value.
        audience: mean of a level, back from the logarithm; or the share of the audience's users.
        base: mean or share of other users.
        effect: standardised difference of a level; logarithm of the ratio of a share.
        low: lower end of the effect's 95% interval.
        high: upper end of the effect's 95% interval.
    """

    kind: str
    name: str
    audience: float
    base: float
    effect: float
    low: float
    high: float

    @property
    def certain(self) -> float:
        """The least effect that the interval allows; 0 where it holds 0."""
        sign = Interval(self.effect, self.low, self.high).sign
        return min(abs(self.low), abs(self.high)) if sign else 0.0

    @property
    def ratio(self) -> float:
        """The audience's share over the base's; for shares only."""
        return float(np.exp(self.effect))


@dataclass(frozen=True)
class Profile:
    """An audience compared with its base.

    Args:
        audience: number of users of the audience in the comparison.
        base: number of other users in the comparison.
        traits: traits, the most certain difference first.
    """

    audience: int
    base: int
    traits: tuple[Trait, ...]

    def of(self, *kinds: str) -> list[Trait]:
        """The traits of some kinds whose interval excludes 0."""
        return [trait for trait in self.traits if trait.kind in kinds and trait.certain > 0]


def profile_audience(
    population: Population, audience: Rows, candidates: Candidates, log: EventLog
) -> Profile:
    """Compare an audience with the other candidates.

    Features are as of the index's cut-off, events are those of the history window before it. Of long lists a
    sample of 20,000 is compared.

    Args:
        population: users of the index.
        audience: int64 [users], rows of the audience.
        candidates: users that could be in the audience.
        log: event log.

    Raises:
        NotReady: there are no features, or nobody to compare with.
    """
    users, inside = _compared(population, audience, candidates)
    sizes = int(inside.sum()), int((~inside).sum())
    traits = _levels(population, users, inside)
    with _events(population, log, users, inside) as connection:
        counts = _counts(connection, log.workspace)
    traits += [
        Trait(kind, name, count / sizes[0], others / sizes[1], *log_ratio((count, others), sizes))
        for kind, name, count, others in counts
        if count + others >= _FEWEST_USERS
    ]
    traits.sort(key=lambda trait: (-trait.certain, -abs(trait.effect), trait.name))
    return Profile(*sizes, tuple(traits))


def profile_mentions(
    population: Population, audience: Rows, candidates: Candidates, log: EventLog, words: Sequence[str]
) -> Trait:
    """How many events of an audience's users name any of some words, compared with everybody else's.

    A check of an audience in words that needs no labels: a level, its means those of the logarithm of the
    count. Events are those inside the history window before the index's cut-off.

    Args:
        population: users of the index.
        audience: int64 [users], rows of the audience.
        candidates: users that could be in the audience.
        log: event log.
        words: words in lower case, from `match_words`.

    Raises:
        NotReady: there is nobody to compare with.
    """
    users, inside = _compared(population, audience, candidates)
    fields = dict.fromkeys(field for _, field in _category_fields(log.workspace))
    text = "lower(concat_ws(' ', " + ", ".join(f'"{field}"' for field in fields) + "))"
    with _events(population, log, users, inside) as connection:
        counts = connection.execute(
            f"SELECT count(e.user_id) FROM users u LEFT JOIN"
            f" (SELECT user_id FROM window_events WHERE regexp_matches({text}, $pattern)) e USING (user_id)"
            " GROUP BY u.user_id, u.position ORDER BY u.position",
            {"pattern": rf"\b({'|'.join(words)})\b"},
        ).fetchnumpy()
    values = np.log1p(next(iter(counts.values())).astype(np.float64))
    return _level(" or ".join(words), values[inside], values[~inside])


def standardised_difference(
    audience: NDArray[np.float64], base: NDArray[np.float64]
) -> tuple[float, float, float]:
    """The difference of two means in pooled standard deviations, with its 95% interval.

    Args:
        audience: finite values, (users,).
        base: finite values, (users,).

    Source: L. V. Hedges, I. Olkin, Statistical Methods for Meta-Analysis (1985), chapter 5, large samples.
    """
    pooled = float(np.sqrt((audience.var(ddof=1) + base.var(ddof=1)) / 2))
    if pooled <= 1e-12 * max(abs(audience.mean()), abs(base.mean())):  # equal values, but for rounding
        return 0.0, 0.0, 0.0
    effect = float(audience.mean() - base.mean()) / pooled
    sizes = len(audience), len(base)
    error = (1 / sizes[0] + 1 / sizes[1] + effect**2 / (2 * sum(sizes))) ** 0.5
    reach = normal_quantile(_CONFIDENCE) * error
    return effect, effect - reach, effect + reach


def log_ratio(counts: tuple[int, int], users: tuple[int, int]) -> tuple[float, float, float]:
    """The logarithm of the ratio of two shares, with its 95% interval; half a user is added to each count.

    Args:
        counts: users with the trait, in the audience and in the base.
        users: all users of both.

    Source: D. Katz and others, Biometrics 34 (1978), 469-474; the half by S. D. Walter, Biometrics 31 (1975).
    """
    first, second = counts[0] + 0.5, counts[1] + 0.5
    sizes = users[0] + 0.5, users[1] + 0.5
    effect = float(np.log(first / sizes[0]) - np.log(second / sizes[1]))
    variance = 1 / first - 1 / sizes[0] + 1 / second - 1 / sizes[1]
    reach = normal_quantile(_CONFIDENCE) * max(variance, 0.0) ** 0.5
    return effect, effect - reach, effect + reach


def _compared(
    population: Population, audience: Rows, candidates: Candidates
) -> tuple[pa.Array, NDArray[np.bool_]]:
    """Users of the audience and of the base, and which of them are of the audience."""
    base = np.setdiff1d(np.flatnonzero(candidates.allowed), audience)
    audience, base = _sample(audience), _sample(base)
    if min(len(audience), len(base)) < 2:
        raise NotReady(
            "there is nobody to compare the audience with", "Request fewer users, or relax the filter."
        )
    inside = np.arange(len(audience) + len(base)) < len(audience)
    return population.index.user_ids(np.concatenate([audience, base])), inside


def _sample(rows: Rows) -> Rows:
    if len(rows) <= _MOST_USERS:
        return rows
    return np.random.default_rng(7).choice(rows, _MOST_USERS, replace=False)


def _levels(population: Population, users: pa.Array, inside: NDArray[np.bool_]) -> list[Trait]:
    """The activity features, as logarithms: else a few heavy users would decide."""
    features = population.features
    if features is None:
        return []
    columns = list(features.site.workspace.activity_columns)
    table = features.read(users, columns)
    traits = []
    for name in columns:
        values = signed_log(table[name].to_numpy(zero_copy_only=False).astype(np.float64))
        known = np.isfinite(values)
        groups = values[known & inside], values[known & ~inside]
        if min(len(group) for group in groups) >= 2:
            traits.append(_level(name, *groups))
    return traits


def _level(name: str, audience: NDArray[np.float64], base: NDArray[np.float64]) -> Trait:
    """A trait of values that are logarithms; its means are back on the original scale."""
    means = [float(np.sign(g.mean()) * np.expm1(abs(g.mean()))) for g in (audience, base)]
    return Trait("level", name, means[0], means[1], *standardised_difference(audience, base))


@contextmanager
def _events(
    population: Population, log: EventLog, users: pa.Array, inside: NDArray[np.bool_]
) -> Iterator[Connection]:
    """A connection with these users (`users`) and their events before the cut-off (`window_events`)."""
    stop = population.as_of.astimezone(UTC)
    start = stop - timedelta(days=log.workspace.window_days)
    with log.connect() as connection:
        connection.register(
            "compared", pa.table({USER_ID: users, "inside": inside, "position": range(len(inside))})
        )
        connection.execute("CREATE TEMP TABLE users AS SELECT * FROM compared")
        fields = dict.fromkeys(field for _, field in _category_fields(log.workspace))
        listed = ", ".join(f"e.{quote(field)}" for field in fields)
        connection.execute(
            f"CREATE TEMP TABLE window_events AS SELECT e.user_id, e.modality, u.inside, {listed} FROM"
            " events e JOIN users u USING (user_id) WHERE e.event_time >= $start AND e.event_time < $stop",
            {"start": start, "stop": stop},
        )
        yield connection


def _counts(connection: Connection, workspace: Workspace) -> list[tuple[str, str, int, int]]:
    """(kind, name, users of the audience, users of the base) of every modality and category value."""
    counts = _grouped(connection, "modality", "modality", "value")
    for modality, field in _category_fields(workspace):
        name = f"{literal(f'{modality} {field} ')} || value"
        counts += _grouped(connection, "category", quote(field), name, f"modality = {literal(modality)}")
    return counts


def _grouped(
    connection: Connection, kind: str, value: str, name: str, where: str = "true"
) -> list[tuple[str, str, int, int]]:
    rows = connection.execute(
        f"""
        SELECT {name}, count(DISTINCT user_id) FILTER (inside), count(DISTINCT user_id) FILTER (NOT inside)
        FROM (SELECT {value} AS value, user_id, inside FROM window_events WHERE {where})
        WHERE length(value) BETWEEN 1 AND {_LONGEST_VALUE} GROUP BY ALL
        """
    ).fetchall()
    return [(kind, str(label), int(count), int(others)) for label, count, others in rows]


def _category_fields(workspace: Workspace) -> list[tuple[str, str]]:
    return [(name, field) for name, spec in workspace.modalities.items() for field in spec.template_fields]
