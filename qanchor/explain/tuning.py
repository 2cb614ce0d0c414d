"""What prompt tuning does to scenarios' embeddings: attention, maps, and the gain on the test part.

The model is loaded once, and reads each history once for all scenarios with the same labelled rows.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qanchor.audience.describe import event_words
from qanchor.charts.chart import Chart
from qanchor.charts.embedding_maps import pca_chart, sample_rows, tsne_chart
from qanchor.embedding.spaces import Space, active_spaces, load_embedder, settled_precision
from qanchor.errors import NotReady
from qanchor.events.history import EventArrays, Int64, load_event_arrays
from qanchor.explain.attention_shift import AttentionShift, attention_chart, attention_shift
from qanchor.explain.probes import (
    ProbedRows,
    TuningGain,
    ZeroLabelRanking,
    choose_rows,
    tuning_gain,
    zero_label_ranking,
)
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
from qanchor.site import Site
from qanchor.times import column_microseconds, from_microseconds

# Rows of all scenarios together, and the fewest and most of one scenario.
_TSNE_ROWS: Final = (2_500, 250, 1_000)
_TRAIN_ROWS: Final = (15_000, 1_500, 3_000)


def _shared(rows: tuple[int, int, int], scenarios: int) -> int:
    total, fewest, most = rows
    return min(max(total // scenarios, fewest), most)


def _probe_rows(scenarios: int = 1) -> dict[str, int]:
    return {"train": _shared(_TRAIN_ROWS, scenarios), "valid": 2_000, "test": 4_000}


@dataclass(frozen=True)
class TuningOptions:
    """The effort of an explanation.

    Args:
        users: number of test rows whose attention is measured.
        points: largest number of rows on a map; a t-SNE of many scenarios has fewer.
        rows: largest number of rows that the probes are fitted and tested on, by part.
    """

    users: int = 100
    points: int = 1_000
    rows: Mapping[str, int] = field(default_factory=_probe_rows)

    @classmethod
    def for_scenarios(cls, scenarios: int, users: int = 100) -> "TuningOptions":
        """Options under which many scenarios take little more time than a few.

        Args:
            scenarios: number of scenarios.
            users: number of test rows whose attention is measured.
        """
        return cls(users=users, rows=_probe_rows(scenarios))


@dataclass(frozen=True)
class ScenarioRows:
    """A scenario's head with its frame.

    Args:
        card: card of the head.
        frame: labelled rows with the embedding in service.
    """

    card: HeadCard
    frame: HeadFrame


@dataclass(frozen=True)
class TuningExplanation:
    """Attention, gain and maps of a scenario's embedding.

    Args:
        attention: attention before and, where tuned, after tuning.
        gain: gain of the tuning on the test part; None where untuned.
        maps: PCA and t-SNE, of the base and, where tuned, of the tuned embedding.
        zero_label: ranking by the scenario's answers; None where they have no text.
    """

    attention: AttentionShift
    gain: TuningGain | None
    maps: tuple[Chart, ...]
    zero_label: ZeroLabelRanking | None = None

    @property
    def charts(self) -> tuple[Chart, ...]:
        """The attention's chart, then the maps."""
        return (attention_chart(self.attention), *self.maps)

    def as_json(self) -> dict[str, Any]:
        """Attention, gain and zero-label AUC as JSON."""
        gain, figures = self.gain, None
        if gain is not None:
            figures = {
                "rows": gain.rows,
                "sampled": gain.sampled,
                "base": gain.base,
                "tuned": gain.tuned,
                "difference": asdict(gain.test.difference),
                "p_value": gain.test.p_value,
            }
        zero_label = asdict(self.zero_label.auc) if self.zero_label else None
        return {
            "attention": asdict(self.attention),
            "linear_probe": figures,
            "words_alone_auc": zero_label,
        }


def stored_rows(site: Site, scenarios: Sequence[str]) -> list[ScenarioRows]:
    """The champions of those scenarios that have one, with their frames.

    Raises:
        NotReady: none of them has a head yet; run `qanchor-cli head train`.
        CheckpointInvalid: a head's files were edited; train it again.
    """
    rows = []
    for head in active_by_scenario(site.engine, Head, scenarios).values():
        folder = site.home.root / head.path
        card = read_card(folder, str(head.metrics.get("card_hash")))
        rows.append(ScenarioRows(card, read_stored_frame(folder, card)))
    if not rows:
        raise NotReady("none of the scenarios has a head", "Run `qanchor-cli head train --all`.")
    return rows


def explain_tuning(
    site: Site, scenarios: Sequence[ScenarioRows], progress: Progress, options: TuningOptions | None = None
) -> dict[str, TuningExplanation | str]:
    """Attention, maps and the gain of tuning by scenario, or the reason why there are none.

    Args:
        site: workspace, home, registry, settings.
        scenarios: heads with their frames.
        progress: counts scenarios.
        options: effort; None: less for each scenario where there are many.

    Raises:
        NotReady: there is no model; run `qanchor-cli pretrain`.
        CheckpointInvalid: the model's or a prompt's folder was edited.
    """
    chosen = options or TuningOptions.for_scenarios(len(scenarios))
    names = [one.card.scenario for one in scenarios]
    precision = settled_precision(site.settings.compute)
    spaces = active_spaces(site, names, precision)
    results: dict[str, TuningExplanation | str] = {}
    usable, usable_spaces = [], []
    for one, space in zip(scenarios, spaces, strict=True):
        problem = _problem(one, space, chosen)
        if problem:
            results[one.card.scenario] = problem
        else:
            usable.append(one)
            usable_spaces.append(space)
    if not usable:
        return results
    # Counting the log's words and a t-SNE are loops on one core: they run during the model's work.
    with ThreadPoolExecutor(1, "explain") as pool:
        vocabulary = pool.submit(event_words, site.event_log)
        embedder, queries = load_embedder(site, usable_spaces)
        loaded = [
            _Scenario(one, query, _compared(one, chosen)) for one, query in zip(usable, queries, strict=True)
        ]
        arrays = _events(site, embedder, loaded)
        explainer = _Explainer(embedder, arrays, chosen, _shared(_TSNE_ROWS, len(loaded)))
        progress.start("explain", total=len(loaded))
        for group in _same_requests(loaded):
            rows = explainer.rows(group)
            maps = [
                pool.submit(explainer.maps, member, some) for member, some in zip(group, rows, strict=True)
            ]
            shifts = explainer.attention(group, rows[0])
            for member, some, shift, charts in zip(group, rows, shifts, maps, strict=True):
                zero_label = zero_label_ranking(
                    embedder.loaded, site.workspace, member.name, vocabulary.result(), some
                )
                gain = tuning_gain(some, int(_has_vector(member.rows).sum())) if member.is_tuned else None
                results[member.name] = TuningExplanation(shift, gain, charts.result(), zero_label)
                progress.advance(note=member.name)
    return results


def _problem(one: ScenarioRows, space: Space, options: TuningOptions) -> str:
    if space.fingerprint != one.card.fingerprint:
        return (
            "The model or the prompt in service is not the one behind this head's vectors: run the "
            "backfill and train the head again."
        )
    return "" if len(_compared(one, options)) else "No test row has an embedding."


def _compared(one: ScenarioRows, options: TuningOptions) -> Int64:
    """Frame rows to compare on; none where no test row has a vector."""
    rows = choose_rows(one.frame.part, _has_vector(one), options.rows)
    return rows if (one.frame.part[rows] == SPLITS.index("test")).any() else rows[:0]


def _has_vector(one: ScenarioRows) -> NDArray[np.bool_]:
    if not one.frame.width:
        return np.zeros(one.frame.table.num_rows, dtype=np.bool_)
    return np.asarray(np.isfinite(_served(one)[:, 0]))


def _served(one: ScenarioRows) -> NDArray[np.float32]:
    """The vectors in service of all rows, (rows, dim)."""
    return vectors(column(one.frame.table, embedding_field(one.card.scenario)), one.frame.width)


@dataclass(frozen=True)
class _Scenario:
    rows: ScenarioRows
    query: Query
    compared: Int64

    @property
    def name(self) -> str:
        return self.rows.card.scenario

    @property
    def users(self) -> list[str]:
        users: list[str] = self.rows.frame.table[USER_ID].take(pa.array(self.compared)).to_pylist()
        return users

    @property
    def cutoffs(self) -> Int64:
        return column_microseconds(self.rows.frame.table[AS_OF].take(pa.array(self.compared)))

    @property
    def is_tuned(self) -> bool:
        return self.query.prompt is not None

    @property
    def key(self) -> tuple[bytes, bytes, bytes]:
        """Equal for scenarios that read the same histories, split alike."""
        part = self.rows.frame.part[self.compared]
        return "\n".join(self.users).encode(), self.cutoffs.tobytes(), part.tobytes()


def _same_requests(scenarios: Sequence[_Scenario]) -> list[list[_Scenario]]:
    groups: dict[tuple[bytes, bytes, bytes], list[_Scenario]] = {}
    for one in scenarios:
        groups.setdefault(one.key, []).append(one)
    return list(groups.values())


def _events(site: Site, embedder: UserEmbedder, scenarios: Sequence[_Scenario]) -> EventArrays:
    """The events that any of the requests may read."""
    cutoffs = np.concatenate([one.cutoffs for one in scenarios])
    return load_event_arrays(
        site.event_log,
        site.workspace,
        before=from_microseconds(cutoffs.max()),
        after=from_microseconds(cutoffs.min()) - timedelta(days=embedder.loaded.config.window_days),
        users=sorted({user for one in scenarios for user in one.users}),
    )


@dataclass(frozen=True)
class _Explainer:
    embedder: UserEmbedder
    arrays: EventArrays
    options: TuningOptions
    tsne_rows: int

    def rows(self, group: Sequence[_Scenario]) -> list[ProbedRows]:
        """Both embeddings of scenarios that read the same histories."""
        tuned = [one for one in group if one.is_tuned]
        users = self.arrays.user_rows(group[0].users)
        queries = [Query(one.query.text) for one in tuned]
        embedded = self.embedder.embed(self.arrays, users, group[0].cutoffs, queries)
        base = dict(zip([one.name for one in tuned], embedded, strict=True))
        rows = []
        for one in group:
            frame, served = one.rows.frame, _served(one.rows)[one.compared]
            part, labels = frame.part[one.compared], frame.labels[one.compared]
            # An untuned scenario's vectors in service are the base.
            untuned = narrowed(base[one.name], served.shape[1]) if one.is_tuned else served
            rows.append(ProbedRows(one.compared, part, labels, untuned, served))
        return rows

    def attention(self, group: Sequence[_Scenario], rows: ProbedRows) -> list[AttentionShift]:
        """The attention of scenarios that read the same histories, on a sample of their test rows."""
        test = np.flatnonzero(rows.of("test"))
        some = test[sample_rows(len(test), self.options.users)]
        users, cutoffs = self.arrays.user_rows(group[0].users)[some], group[0].cutoffs[some]
        queries = {(one.name, False): Query(one.query.text) for one in group}
        queries |= {(one.name, True): one.query for one in group if one.is_tuned}
        read = query_attention(self.embedder.loaded, self.arrays, users, cutoffs, list(queries.values()))
        attention = dict(zip(queries, read, strict=True))
        return [attention_shift(attention[one.name, False], attention.get((one.name, True))) for one in group]

    def maps(self, scenario: _Scenario, rows: ProbedRows) -> tuple[Chart, ...]:
        """PCA and t-SNE of a sample of the test rows."""
        test = rows.of("test")
        embeddings = {"base": ("Before tuning", rows.base[test])} if scenario.is_tuned else {}
        embeddings["tuned"] = ("After tuning" if scenario.is_tuned else "Untuned", rows.tuned[test])
        labels, points = rows.labels[test], self.options.points
        of_pca, of_tsne = (sample_rows(len(labels), most) for most in (points, min(self.tsne_rows, points)))
        charts: list[Chart | None] = [
            pca_chart(f"pca_{name}", f"{title}: PCA", values[of_pca], labels[of_pca])
            for name, (title, values) in embeddings.items()
        ]
        charts += [
            tsne_chart(f"tsne_{name}", f"{title}: t-SNE", values[of_tsne], labels[of_tsne])
            for name, (title, values) in embeddings.items()
        ]
        return tuple(chart for chart in charts if chart is not None)
