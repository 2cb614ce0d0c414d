"""What the anchor does to scenarios' embeddings: attention, maps, and what tuning brought.

The model is loaded once and reads each history once for all scenarios that ask about it.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qanchor.audience.describe import event_words
from qanchor.charts.chart import Chart
from qanchor.charts.embedding_maps import pca_chart, sample_rows, tsne_chart
from qanchor.embedding.load import load_embedder
from qanchor.embedding.spaces import active_spaces, settled_precision
from qanchor.errors import NotReady
from qanchor.events.history import EventArrays, Int64, load_event_arrays
from qanchor.explain.attention_shift import AttentionShift, attention_shift
from qanchor.explain.base_probe import ProbedRows, TuningGain, choose_rows, tuning_gain
from qanchor.explain.words_alone import WordsAlone, words_alone
from qanchor.heads.card import HeadCard, read_card, read_stored_frame
from qanchor.heads.frame import HeadFrame
from qanchor.heads.spec import column, vectors
from qanchor.model.attention import query_attention
from qanchor.model.embedder import Query, UserEmbedder
from qanchor.model.space import narrowed
from qanchor.names import AS_OF, SPLITS, USER_ID, embedding_field
from qanchor.progress import Progress
from qanchor.registry.tables import Head
from qanchor.registry.versions import active_by_scenario
from qanchor.settings import ComputeSettings
from qanchor.site import Site
from qanchor.storage.event_log import EventLog

Vectors = NDArray[np.float32]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A t-SNE of a thousand rows takes seconds: many scenarios share them out.
_NEIGHBOUR_ROWS, _FEWEST_NEIGHBOUR_ROWS = 2_500, 250


# So do the training rows that are embedded without their prompts.
_TRAIN_ROWS, _FEWEST_TRAIN_ROWS, _MOST_TRAIN_ROWS = 15_000, 1_500, 3_000


def _most_rows(scenarios: int = 1) -> dict[str, int]:
    train = min(max(_TRAIN_ROWS // scenarios, _FEWEST_TRAIN_ROWS), _MOST_TRAIN_ROWS)
    return {"train": train, "valid": 2_000, "test": 4_000}


@dataclass(frozen=True)
class AnchorOptions:
    """How much is looked at.

    Args:
        users: test rows whose attention is measured.
        points: rows on a map; a t-SNE of many scenarios takes fewer.
        rows: most rows of each part that the probes of both embeddings are fitted and tested on.
    """

    users: int = 100
    points: int = 1_000
    rows: Mapping[str, int] = field(default_factory=_most_rows)

    @classmethod
    def for_scenarios(cls, scenarios: int, users: int = 100) -> "AnchorOptions":
        """Less of each where there are many.

        Args:
            scenarios: how many are looked at.
            users: test rows whose attention is measured.
        """
        return cls(users=users, rows=_most_rows(scenarios))


@dataclass(frozen=True)
class ScenarioRows:
    """A scenario's head with its frame.

    Args:
        card: of the head.
        frame: its labelled rows with the embedding in service.
    """

    card: HeadCard
    frame: HeadFrame


@dataclass(frozen=True)
class AnchorFindings:
    """What was found of a scenario.

    Args:
        attention: before and, where tuned, after.
        gain: what tuning brought on the test part; None where untuned.
        maps: PCA and t-SNE, of the base and, where tuned, of the tuned embedding.
        words: how far the scenario's words alone go; None where it has none.
    """

    attention: AttentionShift
    gain: TuningGain | None
    maps: tuple[Chart, ...]
    words: WordsAlone | None = None


def stored_rows(site: Site, scenarios: Sequence[str]) -> list[ScenarioRows]:
    """The champions of those scenarios that have one, with their frames.

    Args:
        site: home and registry.
        scenarios: names.

    Raises:
        NotReady: none of them has a head yet; run `qanchor-cli head train`.
        CheckpointInvalid: a head's files were edited; train it again.
    """
    found = []
    for row in active_by_scenario(site.engine, Head, scenarios).values():
        folder = site.home.root / row.path
        card = read_card(folder, str(row.metrics.get("card_hash")))
        found.append(ScenarioRows(card, read_stored_frame(folder, card)))
    if not found:
        raise NotReady("no scenario asked for has a head", "Run `qanchor-cli head train --all`.")
    return found


def explain_anchors(
    site: Site,
    compute: ComputeSettings,
    scenarios: Sequence[ScenarioRows],
    progress: Progress,
    options: AnchorOptions | None = None,
) -> dict[str, AnchorFindings | str]:
    """Attention, maps and the gain of tuning, by scenario; or why they cannot be had.

    Args:
        site: home, registry, workspace.
        compute: what the model runs on.
        scenarios: heads with their frames.
        progress: told of every scenario.
        options: how much is looked at; None: less of each where there are many.

    Raises:
        NotReady: there is no model; run `qanchor-cli pretrain`.
        CheckpointInvalid: the model's or a prompt's folder was edited.
    """
    chosen = options or AnchorOptions.for_scenarios(len(scenarios))
    names = [one.card.scenario for one in scenarios]
    spaces = active_spaces(site, names, settled_precision(compute))
    found: dict[str, AnchorFindings | str] = {}
    usable = []
    for one, space in zip(scenarios, spaces, strict=True):
        if space.fingerprint != one.card.fingerprint:
            found[one.card.scenario] = (
                "The model or the prompt in service is not the one behind this head's vectors: run the "
                "backfill and train the head again."
            )
        elif not len(_kept(one, chosen)):
            found[one.card.scenario] = "No test row has an embedding."
        else:
            usable.append((one, space))
    if not usable:
        return found
    # A look through the log's words and a t-SNE are loops on one core: they run beside the model's work.
    with ThreadPoolExecutor(1, "beside") as pool:
        vocabulary = pool.submit(event_words, EventLog(site.home.events, site.workspace))
        embedder, queries = load_embedder(site, [space for _, space in usable])
        loaded = [
            _Scenario(one, query, _kept(one, chosen)) for (one, _), query in zip(usable, queries, strict=True)
        ]
        arrays = _events(site, embedder, loaded)
        neighbours = max(_FEWEST_NEIGHBOUR_ROWS, _NEIGHBOUR_ROWS // len(loaded))
        looker = _Looker(embedder, arrays, chosen, neighbours)
        progress.start("explain", total=len(loaded))
        for group in _same_requests(loaded):
            rows = looker.rows(group)
            maps = [pool.submit(looker.maps, member, r) for member, r in zip(group, rows, strict=True)]
            shifts = looker.attention(group, rows[0])
            for member, r, shift, made in zip(group, rows, shifts, maps, strict=True):
                words = words_alone(embedder.loaded, site.workspace, member.name, vocabulary.result(), r)
                found[member.name] = AnchorFindings(shift, _gain(member, r), made.result(), words)
                progress.advance(note=member.name)
    return found


def _gain(scenario: "_Scenario", rows: ProbedRows) -> TuningGain | None:
    return tuning_gain(rows, int(_held(scenario.rows).sum())) if scenario.is_tuned else None


def _kept(one: ScenarioRows, options: AnchorOptions) -> Int64:
    """Frame rows to look at; none where no test row has a vector."""
    rows = choose_rows(one.frame.part, _held(one), dict(options.rows))
    return rows if (one.frame.part[rows] == SPLITS.index("test")).any() else rows[:0]


def _held(one: ScenarioRows) -> NDArray[np.bool_]:
    if not one.frame.width:
        return np.zeros(one.frame.table.num_rows, dtype=np.bool_)
    return np.asarray(np.isfinite(_tuned(one)[:, 0]))


def _tuned(one: ScenarioRows) -> Vectors:
    return vectors(column(one.frame.table, embedding_field(one.card.scenario)), one.frame.width)


@dataclass(frozen=True)
class _Scenario:
    rows: ScenarioRows
    query: Query
    place: Int64

    @property
    def name(self) -> str:
        return self.rows.card.scenario

    @property
    def users(self) -> list[str]:
        found: list[str] = self.rows.frame.table[USER_ID].take(pa.array(self.place)).to_pylist()
        return found

    @property
    def cutoffs(self) -> Int64:
        times = self.rows.frame.table[AS_OF].take(pa.array(self.place))
        return np.asarray(times.cast(pa.timestamp("us")).cast(pa.int64()), dtype=np.int64)

    @property
    def is_tuned(self) -> bool:
        return self.query.prompt is not None

    @property
    def key(self) -> tuple[bytes, bytes, bytes]:
        """Scenarios of one key ask about the same histories, divided alike."""
        part = self.rows.frame.part[self.place]
        return "\n".join(self.users).encode(), self.cutoffs.tobytes(), part.tobytes()


def _same_requests(scenarios: Sequence[_Scenario]) -> list[list[_Scenario]]:
    groups: dict[tuple[bytes, bytes, bytes], list[_Scenario]] = {}
    for one in scenarios:
        groups.setdefault(one.key, []).append(one)
    return list(groups.values())


def _events(site: Site, embedder: UserEmbedder, scenarios: Sequence[_Scenario]) -> EventArrays:
    """The events that any of the requests may read."""
    cutoffs = np.concatenate([one.cutoffs for one in scenarios])
    first, last = (_EPOCH + timedelta(microseconds=int(end)) for end in (cutoffs.min(), cutoffs.max()))
    return load_event_arrays(
        EventLog(site.home.events, site.workspace),
        site.workspace,
        before=last,
        after=first - timedelta(days=embedder.loaded.config.window_days),
        users=sorted({user for one in scenarios for user in one.users}),
    )


@dataclass(frozen=True)
class _Looker:
    embedder: UserEmbedder
    arrays: EventArrays
    options: AnchorOptions
    neighbours: int

    def rows(self, group: Sequence[_Scenario]) -> list[ProbedRows]:
        """Both embeddings of scenarios that ask about the same histories."""
        tuned = [one for one in group if one.is_tuned]
        places = self.arrays.user_rows(group[0].users)
        queries = [Query(one.query.text) for one in tuned]
        made = self.embedder.embed(self.arrays, places, group[0].cutoffs, queries)
        base = dict(zip([one.name for one in tuned], made, strict=True))
        found = []
        for one in group:
            frame, served = one.rows.frame, _tuned(one.rows)[one.place]
            part, labels = frame.part[one.place], frame.labels[one.place]
            # An untuned scenario's vectors in service are the base.
            untuned = narrowed(base[one.name], served.shape[1]) if one.is_tuned else served
            found.append(ProbedRows(one.place, part, labels, untuned, served))
        return found

    def attention(self, group: Sequence[_Scenario], rows: ProbedRows) -> list[AttentionShift]:
        """The attention of scenarios that ask about the same histories, on a sample of their test rows."""
        test = np.flatnonzero(rows.of("test"))
        some = test[sample_rows(len(test), self.options.users)]
        asked = [(one, tuned) for one in group for tuned in ((False, True) if one.is_tuned else (False,))]
        queries = [one.query if tuned else Query(one.query.text) for one, tuned in asked]
        users = self.arrays.user_rows(group[0].users)[some]
        cutoffs = group[0].cutoffs[some]
        found = query_attention(self.embedder.loaded, self.arrays, users, cutoffs, queries)
        by_side = {(one.name, tuned): one_found for (one, tuned), one_found in zip(asked, found, strict=True)}
        return [attention_shift(by_side[one.name, False], by_side.get((one.name, True))) for one in group]

    def maps(self, scenario: _Scenario, rows: ProbedRows) -> tuple[Chart, ...]:
        """PCA and t-SNE of a sample of the test rows."""
        test = rows.of("test")
        sides = {"base": ("Before tuning", rows.base)} if scenario.is_tuned else {}
        sides["tuned"] = ("After tuning" if scenario.is_tuned else "Untuned", rows.tuned)
        few = sample_rows(int(test.sum()), self.options.points)
        fewer = sample_rows(int(test.sum()), min(self.neighbours, self.options.points))
        found: list[Chart | None] = [
            pca_chart(f"pca_{name}", f"{title}: PCA", values[test][few], rows.labels[test][few])
            for name, (title, values) in sides.items()
        ]
        found += [
            tsne_chart(f"tsne_{name}", f"{title}: t-SNE", values[test][fewer], rows.labels[test][fewer])
            for name, (title, values) in sides.items()
        ]
        return tuple(chart for chart in found if chart is not None)
