"""From counts to events: times, texts, amounts, errands for others, late and repeated delivery."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qanchor.simulation.catalogue import KINDS, SPENDING_CATEGORIES, TARGETS
from qanchor.simulation.config import BLOCK_USERS, WorldPlan
from qanchor.simulation.kind import MODALITIES, SLOTS
from qanchor.simulation.life import Life
from qanchor.simulation.state import TRAIT_NAMES, Floats, Ints
from qanchor.simulation.wording import POOLS
from qanchor.times import DAY_US, HOUR_US, TIMESTAMP, to_microseconds

NOISE_SHARE, LATE_SHARE, DUPLICATE_SHARE = 0.05, 0.03, 0.005
AGE_BANDS = ("18-24", "25-29", "30-39", "40-49", "50-59", "60+")
OCCUPATIONS = ("student", "service", "office", "trade", "professional", "retired")
CITY_TIERS = ("tier 1", "tier 2", "tier 3")

TEXT_FIELDS: dict[str, tuple[str, ...]] = {
    "bill": ("direction", "category", "merchant"),
    "mini_program": ("program", "action"),
    "spm": ("page",),
    "app": ("app", "app_action"),
    "search": ("search_text",),
    "tabular": ("age_band", "occupation", "city_tier"),
}
NUMBER_FIELDS = ("amount", "balance", "credit_limit", "tenure_days")
EVENT_SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("user_id", pa.string()),
        ("event_time", TIMESTAMP),
        ("modality", pa.string()),
        *((name, pa.string()) for fields in TEXT_FIELDS.values() for name in fields),
        *((name, pa.float64()) for name in NUMBER_FIELDS),
    ]
)

_POOL_NAMES = tuple(POOLS)
_POOL_SIZE = np.array([len(POOLS[name]) for name in _POOL_NAMES])
_POOL_START = np.cumsum([0, *_POOL_SIZE])[:-1]
_MAX_STEPS = max(len(kind.pools) for kind in KINDS)
_STEPS = np.full((len(KINDS), _MAX_STEPS), -1)
for _i, _kind in enumerate(KINDS):
    _STEPS[_i, : len(_kind.pools)] = [_POOL_NAMES.index(pool) for pool in _kind.pools]
_MODALITY = np.array([MODALITIES.index(SLOTS[kind.slot].modality) for kind in KINDS])
_SESSION = np.array([SLOTS[kind.slot].modality != "bill" for kind in KINDS])
_HOUR = np.array([kind.hour for kind in KINDS])
_AMOUNT = np.array([kind.amount for kind in KINDS])
_IS_SPENDING = np.array(
    [POOLS[name][0][0] == "pays" and POOLS[name][0][1] in SPENDING_CATEGORIES for name in _POOL_NAMES]
)
_TABULAR_START = int(_POOL_SIZE.sum())
# An errand for somebody else is an event of another kind of the same slot, never one that a label counts.
_ERRANDS = {
    slot: np.array(
        [i for i, k in enumerate(KINDS) if k.slot == slot and k.name not in TARGETS and not k.steps]
    )
    for slot in SLOTS
    if slot != "daily"
}


def _pool_modality(pool: str) -> str:
    return next(SLOTS[kind.slot].modality for kind in KINDS if pool in kind.pools)


def _text_columns() -> dict[str, pa.Array]:
    """The value of each text field for every distinct text: the pools in order, then the profiles."""
    columns: dict[str, list[str | None]] = {name: [] for fields in TEXT_FIELDS.values() for name in fields}
    profiles = [(a, o, c) for a in AGE_BANDS for o in OCCUPATIONS for c in CITY_TIERS]
    rows = [(_pool_modality(name), text) for name in _POOL_NAMES for text in POOLS[name]]
    for modality, text in [*rows, *(("tabular", profile) for profile in profiles)]:
        row = dict(zip(TEXT_FIELDS[modality], text, strict=True))
        for name, values in columns.items():
            values.append(row.get(name))
    return {name: pa.array(values, pa.string()) for name, values in columns.items()}


_TEXTS = _text_columns()


@dataclass
class _Draft:
    """Events in columns, all of shape (events,)."""

    user: Ints
    time: Ints
    modality: Ints
    text: Ints
    amount: Floats
    balance: Floats
    limit: Floats
    tenure: Floats

    def take(self, rows: Ints) -> "_Draft":
        return _Draft(**{name: values[rows] for name, values in vars(self).items()})


def _times(life: Life, day: Ints, user: Ints, kind: Ints, rng: np.random.Generator) -> Ints:
    days, users = len(life.active), len(life)
    usual = rng.normal(16.0, 3.5, users)
    sessions: Floats = usual[None, :, None] + rng.normal(0.0, 2.5, (days, users, 2))
    which = rng.integers(0, 2, len(day))
    session = sessions[day, user, which] + rng.exponential(0.2, len(day))
    alone = rng.normal(_HOUR[kind, 0], _HOUR[kind, 1])
    hour = np.clip(np.where(_SESSION[kind], session, alone), 0.02, 23.2)
    seconds: Ints = (hour * 3600 + rng.random(len(day)) * 300).astype(np.int64)
    return day * DAY_US + seconds * 1_000_000 + rng.integers(0, 1_000_000, len(day))


def _choose_text(pool: Ints, user: Ints, rng: np.random.Generator) -> Ints:
    """A text of each pool: with probability 0.6 one of the user's few favourites."""
    size = _POOL_SIZE[pool]
    taste = rng.integers(0, 2**31, (BLOCK_USERS, len(_POOL_NAMES)))
    favourite = (taste[user, pool] + rng.geometric(0.55, len(pool)) - 1) % size
    anything = (rng.random(len(pool)) * size).astype(np.int64)
    chosen: Ints = _POOL_START[pool] + np.where(rng.random(len(pool)) < 0.6, favourite, anything)
    return chosen


def _errands(kind: Ints, rng: np.random.Generator) -> Ints:
    """The kinds, a few of them replaced by errands; kinds that a label counts stay."""
    target = np.array([k.name in TARGETS or bool(k.steps) for k in KINDS])
    result = kind.copy()
    chosen = (rng.random(len(kind)) < NOISE_SHARE) & ~target[kind]
    for slot, others in _ERRANDS.items():
        members = np.array([k.slot == slot for k in KINDS])
        rows = np.flatnonzero(chosen & members[kind])
        result[rows] = others[rng.integers(0, len(others), len(rows))]
    return result


def _acts(life: Life, rng: np.random.Generator) -> tuple[_Draft, Floats]:
    """All events except profiles, and the money spent per day and user, (days, users)."""
    day, user, kind = np.nonzero(life.counts)
    repeats = life.counts[day, user, kind]
    day, user, kind = (np.repeat(x, repeats).astype(np.int64) for x in (day, user, kind))
    time = _times(life, day, user, kind, rng)
    z = rng.standard_normal(len(kind))
    income = life.first.static[user, TRAIT_NAMES.index("income")]
    amount = np.exp(np.log(np.maximum(_AMOUNT[kind, 0], 0.01)) + _AMOUNT[kind, 1] * z + 0.3 * income)
    worded = _errands(kind, rng)
    gaps = np.cumsum(rng.uniform(40, 400, (len(kind), _MAX_STEPS)), axis=1).astype(np.int64) * 1_000_000
    parts = []
    for i in range(_MAX_STEPS):
        rows = np.flatnonzero(_STEPS[worded, i] >= 0)
        jitter = np.exp(rng.normal(0, 0.1, len(rows))) if i else 1.0
        parts.append(
            (rows, _STEPS[worded[rows], i], time[rows] + (gaps[rows, i] if i else 0), amount[rows] * jitter)
        )
    rows, pool, when, money = (np.concatenate([part[i] for part in parts]) for i in range(4))
    bill = _MODALITY[kind[rows]] == 0
    level = life.balance[day[rows], user[rows]] + rng.normal(0, 0.7, len(rows))
    known = bill & (rng.random(len(rows)) < 0.75)
    nothing = np.full(len(rows), np.nan)
    cost = np.where(_IS_SPENDING[pool], np.round(money, 2), 0.0)
    days, users = life.active.shape
    spent = np.bincount(day[rows] * users + user[rows], weights=cost, minlength=days * users)
    draft = _Draft(
        user=user[rows],
        time=when,
        modality=_MODALITY[kind[rows]],
        text=_choose_text(pool, user[rows], rng),
        amount=np.where(bill, np.round(money, 2), np.nan),
        balance=np.where(known, np.round(np.exp(level), 2), np.nan),
        limit=nothing,
        tenure=nothing,
    )
    return draft, spent.reshape(days, users).astype(np.float64)


def _profiles(plan: WorldPlan, life: Life, rng: np.random.Generator) -> _Draft:
    users = len(life)
    youth = life.first.trait("music") + life.first.trait("takeout") - life.first.trait("income")
    age = np.clip(np.searchsorted([-3.0, -1.6, -0.2, 1.2, 2.4], -youth + rng.normal(0, 1, users)), 0, 5)
    wealth = life.first.trait("income")
    job = np.where(age == 0, rng.integers(0, 3, users), np.where(age == 5, 5, rng.integers(1, 5, users)))
    tier = np.clip(np.searchsorted([-0.5, 0.6], -wealth + rng.normal(0, 1, users)), 0, 2)
    limit = 100.0 * np.round(np.exp(3.9 + 0.6 * wealth + rng.normal(0, 0.4, users)))
    before = np.round(rng.exponential(500, users)) + 30
    firsts = [day for day in range(plan.days) if plan.calendar(day)[1] == 1]
    day = np.repeat(firsts, users)
    user = np.tile(np.arange(users), len(firsts))
    joined = life.first.joined[user] <= day
    day, user = day[joined], user[joined]
    first_day = life.first.joined[user]
    tenure = np.where(first_day < 0, before[user] + day, day - first_day)
    text = _TABULAR_START + (age * len(OCCUPATIONS) + job)[user] * len(CITY_TIERS) + tier[user]
    time = day * DAY_US + 3 * HOUR_US + rng.integers(0, 600_000_000, len(day))
    nothing = np.full(len(day), np.nan)
    kinds = np.full(len(day), MODALITIES.index("tabular"))
    return _Draft(
        user, time, kinds, text, nothing, nothing, limit[user].astype(np.float64), tenure.astype(np.float64)
    )


def _arrival_order(time: Ints, rng: np.random.Generator) -> Ints:
    """Row numbers in the order of arrival; some arrive late, a few twice."""
    count = len(time)
    delay = np.where(rng.random(count) < LATE_SHARE, rng.exponential(12 * HOUR_US, count), 2_000_000.0)
    again = np.flatnonzero(rng.random(count) < DUPLICATE_SHARE)
    rows = np.concatenate([np.arange(count), again])
    repeat = time[again] + rng.exponential(HOUR_US, len(again)) + delay[again]
    ordered: Ints = rows[np.argsort(np.concatenate([time + delay, repeat]), kind="stable")]
    return ordered


def _strings(prefix: str, numbers: Ints, width: int) -> pa.Array:
    text = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), width=width, padding="0")
    return pc.binary_join_element_wise(prefix, text, "")


def emit(
    plan: WorldPlan, life: Life, first_user: int, users: int, rng: np.random.Generator
) -> tuple[pa.Table, Floats]:
    """The block's events in order of arrival, as EVENT_SCHEMA, and the money spent, (days, users).

    Args:
        plan: plan of the world.
        life: acts of the block's users.
        first_user: number of the block's first user.
        users: number of the block's users whose events are returned, from the first.
        rng: the block's random stream for events.
    """
    (acts, spent), profiles = _acts(life, rng), _profiles(plan, life, rng)
    both = _Draft(
        **{name: np.concatenate([values, getattr(profiles, name)]) for name, values in vars(acts).items()}
    )
    draft = both.take(np.lexsort((both.time, both.user)))
    number = np.arange(len(draft.user)) - np.searchsorted(draft.user, draft.user)
    order = _arrival_order(draft.time, rng)
    order = order[draft.user[order] < users]
    draft, number = draft.take(order), number[order]
    return _table(plan, draft, number, first_user), spent


def _table(plan: WorldPlan, draft: _Draft, number: Ints, first_user: int) -> pa.Table:
    user_id = _strings("u", draft.user + first_user, 7)
    index = pa.array(draft.text)
    start = to_microseconds(plan.moment(0))
    columns: dict[str, pa.Array] = {
        "event_id": pc.binary_join_element_wise(user_id, pa.array(number).cast(pa.string()), "-"),
        "user_id": user_id,
        "event_time": pa.array(draft.time + start).cast(TIMESTAMP),
        "modality": pa.array(MODALITIES).take(pa.array(draft.modality)),
        **{name: values.take(index) for name, values in _TEXTS.items()},
        "amount": _numbers(draft.amount),
        "balance": _numbers(draft.balance),
        "credit_limit": _numbers(draft.limit),
        "tenure_days": _numbers(draft.tenure),
    }
    return pa.table(columns, schema=EVENT_SCHEMA)


def _numbers(values: NDArray[np.float64]) -> pa.Array:
    return pa.array(values, pa.float64(), mask=np.isnan(values))
