"""Whether the events that an explanation names move the score more than events taken at random."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.harness import table
from qanchor.home import Home
from qanchor.names import AS_OF, EVENT_TIME, USER_ID, embedding_field
from qanchor.site import Site
from qanchor.times import TIMESTAMP

if TYPE_CHECKING:
    from qanchor.explain.event_effects import Explainer

_NAMED, _DRAWS = 5, 10


def open_home(home: Path, repo: Path) -> Site:
    """The site of a finished home and its feature repository."""
    from qanchor.registry.session import open_engine
    from qanchor.workspace import load_workspace

    finished = Home(home.resolve())
    engine = open_engine(f"sqlite:///{finished.root / 'qanchor.db'}")
    return Site.at(load_workspace(repo.resolve()), finished, engine)


def with_heads(site: Site) -> list[str]:
    """Scenarios that have a champion."""
    from qanchor.registry.tables import Head
    from qanchor.registry.versions import active_by_scenario

    return list(active_by_scenario(site.engine, Head, list(site.workspace.scenarios)))


@dataclass(frozen=True)
class Deletion:
    """Absolute change of one user's raw score when events are left out.

    Args:
        named: change without the five events that are named together.
        pulled: change without the five events of the largest gradient times input.
        drawn: changes without five random events that the vector reads, by draw.
    """

    named: float
    pulled: float
    drawn: tuple[float, ...]


def measure_deletion(site: Site, users: int) -> dict[str, float]:
    """Share of test users whose five named events move the raw score more than five random ones.

    The random change is the mean absolute change over ten draws of five events that the vector reads, of any
    modality. A user whose score neither the named nor the random events move counts against the named ones.
    Users with fewer than ten events are left out and counted. All scenarios with a head have equal shares.

    Args:
        site: site of a finished home.
        users: number of users in total.
    """
    from qanchor.threads import limit_threads

    limit_threads(0)
    scenarios = with_heads(site)
    each, random = -(-users // len(scenarios)), np.random.default_rng(7)
    deletions: dict[str, list[Deletion]] = {}
    left_out = 0
    for scenario in scenarios:
        deletions[scenario], few = _deletions(site, scenario, each, random)
        left_out += few
    rows = [{"scenario": name, **_summary(one)} for name, one in deletions.items()]
    print("named events left out, against random ones\n" + table(rows) + "\n")
    everyone = _summary([one for some in deletions.values() for one in some]) | {"too few events": left_out}
    return {f"deletion_{name.replace(' ', '_')}": float(value) for name, value in everyone.items()}


def _summary(deletions: list[Deletion]) -> dict[str, float]:
    named, pulled = (np.array([getattr(one, name) for one in deletions]) for name in ("named", "pulled"))
    drawn = np.array([one.drawn for one in deletions])
    return {
        "users": len(deletions),
        "named": float((named > drawn.mean(axis=1)).mean()),
        "above every draw": float((named > drawn.max(axis=1)).mean()),
        "gradient alone": float((pulled > drawn.mean(axis=1)).mean()),
        "not moved by the named": int((named == 0).sum()),
        "nor by any draw": int(((named == 0) & (drawn.max(axis=1) == 0)).sum()),
        "named moves": float(named.mean()),
        "gradient moves": float(pulled.mean()),
        "random moves": float(drawn.mean()),
    }


def _deletions(
    site: Site, scenario: str, users: int, random: np.random.Generator
) -> tuple[list[Deletion], int]:
    """Deletions of some test users, and the number of users with too few events."""
    from qanchor.explain.event_effects import read_events
    from qanchor.explain.user_score import load_explainer
    from qanchor.heads.card import read_stored_frame
    from qanchor.heads.score import load_head

    head = load_head(site, scenario)
    explainer = load_explainer(site, head)
    test = read_stored_frame(head.folder, head.card).table_of("test")
    test = test.filter(pc.is_valid(test[embedding_field(scenario)]))
    chosen = test.take(pa.array(random.permutation(test.num_rows)[: 2 * users]))
    users_chosen, cutoffs = chosen[USER_ID].to_pylist(), chosen[AS_OF].to_pylist()
    events = read_events(site.event_log, site.workspace, users_chosen, max(cutoffs))
    deletions: list[Deletion] = []
    few = 0
    for user, cutoff in zip(users_chosen, cutoffs, strict=True):
        if len(deletions) == users:
            break
        before = pc.less(events[EVENT_TIME], pa.scalar(cutoff, TIMESTAMP))
        one = _deletion(
            explainer, events.filter(pc.and_(pc.equal(events[USER_ID], user), before)), cutoff, random
        )
        if one is None:
            few += 1
        else:
            deletions.append(one)
    return deletions, few


def _deletion(
    explainer: "Explainer", events: pa.Table, cutoff: datetime, random: np.random.Generator
) -> Deletion | None:
    """None where the vector reads fewer than ten events."""
    from qanchor.explain.event_effects import event_effects, raw_scores

    one = event_effects(explainer, events, cutoff)
    if len(one.events) < 2 * _NAMED:
        return None
    pulled = [event.row for event in sorted(one.events, key=lambda event: -abs(event.pull))[:_NAMED]]
    sets = [np.array(rows, dtype=np.int64) for rows in ([], one.together.rows, pulled)]
    readable = sorted(event.row for event in one.events)
    sets += [random.choice(readable, _NAMED, replace=False) for _ in range(_DRAWS)]
    raw = raw_scores(explainer, events, cutoff, sets)
    change = np.abs(raw[1:] - raw[0]).tolist()
    return Deletion(change[0], change[1], tuple(change[2:]))
