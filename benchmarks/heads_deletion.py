"""Whether the events that an explanation names move the score more than events taken at random."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.harness import table
from qanchor.heads.train import Surroundings
from qanchor.home import Home
from qanchor.names import AS_OF, USER_ID, embedding_field

_NAMED, _DRAWS = 5, 10


def open_home(home: Path, repo: Path) -> Surroundings:
    """What heads read and write, of a finished home and its feature repository."""
    from qanchor.registry.session import open_engine
    from qanchor.storage.features import FeatureRepository
    from qanchor.workspace import load_workspace

    workspace, place = load_workspace(repo.resolve()), Home(home.resolve())
    engine = open_engine(f"sqlite:///{place.root / 'qanchor.db'}")
    return Surroundings(FeatureRepository(workspace, place), place, engine, workspace)


def with_heads(around: Surroundings) -> list[str]:
    """Scenarios that have a champion."""
    from qanchor.registry.tables import Head
    from qanchor.registry.versions import active_by_scenario

    return list(active_by_scenario(around.engine, Head, list(around.workspace.scenarios)))


def measure_deletion(around: Surroundings, users: int) -> dict[str, float]:
    """Share of test users whose five named events move the raw score more than five random ones.

    Of ten draws of five events that the vector reads the mean absolute change counts. The named events are
    those measured one by one among the strongest by gradient; beside them stand the strongest five by
    gradient times input alone. All scenarios with a head take part alike.

    Args:
        around: of a finished home.
        users: how many in all.
    """
    from qanchor.threads import limit_threads

    limit_threads(0)
    scenarios = with_heads(around)
    each, random = -(-users // len(scenarios)), np.random.default_rng(7)
    changes: dict[str, Any] = {}
    for scenario in scenarios:
        changes[scenario] = np.array(_changes(around, scenario, each, random))
    rows = [{"scenario": name, **_summary(values)} for name, values in changes.items()]
    print("named events left out, against random ones\n" + table(rows) + "\n")
    found = _summary(np.concatenate(list(changes.values())))
    return {f"deletion_{name.replace(' ', '_')}": float(value) for name, value in found.items()}


def _summary(changes: Any) -> dict[str, float]:
    named, pulled, drawn = changes.T
    return {
        "users": len(changes),
        "named": float((named > drawn).mean()),
        "gradient alone": float((pulled > drawn).mean()),
        "named moves": float(named.mean()),
        "gradient moves": float(pulled.mean()),
        "random moves": float(drawn.mean()),
    }


def _changes(
    around: Surroundings, scenario: str, users: int, random: np.random.Generator
) -> list[tuple[float, float, float]]:
    """Absolute changes of the raw score by named, gradient's and random events, one row for each user."""
    from qanchor.evaluation.edited_log import read_events
    from qanchor.evaluation.explain_events import explain_events, raw_scores
    from qanchor.evaluation.explain_user import load_explainer, user_events
    from qanchor.heads.card import read_stored_frame
    from qanchor.heads.score import load_head
    from qanchor.settings import ComputeSettings
    from qanchor.storage.event_log import EventLog

    head = load_head(scenario, around)
    explainer = load_explainer(around, ComputeSettings(), head)
    test = read_stored_frame(head.folder, head.card).table_of("test")
    test = test.filter(pc.is_valid(test[embedding_field(scenario)]))
    chosen = test.take(pa.array(random.permutation(test.num_rows)[: 2 * users]))
    asked = list(zip(chosen[USER_ID].to_pylist(), chosen[AS_OF].to_pylist(), strict=True))
    log = EventLog(around.home.events, around.workspace)
    everything = read_events(
        log, around.workspace, [user for user, _ in asked], max(when for _, when in asked)
    )
    found: list[tuple[float, float, float]] = []
    for user, moment in asked:
        if len(found) == users:
            break
        events = user_events(everything, user, moment)
        one = explain_events(explainer, events, moment)
        if len(one.readable) < 2 * _NAMED:
            continue
        named = [event.row for event in one.strongest(_NAMED)]
        pulled = [event.row for event in sorted(one.candidates, key=lambda event: -abs(event.pull))[:_NAMED]]
        sets = [np.array(rows, dtype=np.int64) for rows in ([], named, pulled)]
        sets += [random.choice(one.readable, max(len(named), 1), replace=False) for _ in range(_DRAWS)]
        raw = raw_scores(explainer, events, moment, sets)
        change = np.abs(raw[1:] - raw[0])
        found.append((float(change[0]), float(change[1]), float(change[2:].mean())))
    return found
