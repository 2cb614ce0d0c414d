"""Throughput from users' histories to vectors, against the straightforward way.

    python -m benchmarks.materialize [--quick] [--users N] [--json FILE]

Ten scenarios, preset tiny, simulated world; the weights are untrained, which changes no cost. All figures
come from one run: the two ways alternate, and the figures are medians.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import Bar, arguments, finish, table
from qanchor.events.history import EventArrays, Int64, load_event_arrays
from qanchor.storage.event_log import EventLog, sort_by_user
from qanchor.times import to_microseconds
from qanchor.workspace import Workspace, load_workspace

if TYPE_CHECKING:
    from qanchor.model.checkpoint import LoadedModel
    from qanchor.model.embedder import Query

REPO = Path(__file__).resolve().parent.parent / "feature_repo"
PROMPT_TOKENS = 6
THREADS = 2
SHARDS = 5


@dataclass(frozen=True)
class Bench:
    """Inputs of all measurements.

    Args:
        log: event log of a simulated world.
        workspace: the shipped workspace.
        as_of: cut-off of the snapshot.
        loaded: untrained tiny model.
        queries: queries of the scenarios, each with a random prompt.
        rounds: repetitions of each way.
    """

    log: EventLog
    workspace: Workspace
    as_of: datetime
    loaded: "LoadedModel"
    queries: "Sequence[Query]"
    rounds: int


def main() -> None:
    """Simulate a world, measure, print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--users", type=int, help="users of the world; default: 2,000, with --quick 1,000")
    options = parser.parse_args()
    from qanchor.threads import limit_threads

    limit_threads(THREADS)
    users = options.users or (1000 if options.quick else 2000)
    figures: dict[str, Any] = {"users": users, "threads": THREADS}
    with tempfile.TemporaryDirectory() as folder:
        bench = prepare(Path(folder), users, rounds=3 if options.quick else 5)
        arrays = _read(bench)
        ours = _against_straightforward(bench, arrays, figures)
        _one_more_scenario(bench, arrays, figures)
        _reading(bench, ours, figures)
        _in_shards(bench, figures)
    print(table([{"figure": name, "value": value} for name, value in figures.items()]))
    finish(figures, bars(figures), options.json)


def prepare(folder: Path, users: int, rounds: int) -> Bench:
    """A world in an event log, and a model for it."""
    import torch

    from qanchor.model.build import build_model, make_tokenizer
    from qanchor.model.checkpoint import LoadedModel
    from qanchor.model.config import preset_config
    from qanchor.model.embedder import Query
    from qanchor.model.features import Normaliser
    from qanchor.model.runtime import choose_runtime
    from qanchor.model.soft_prompt import SoftPrompt
    from qanchor.simulation.config import WorldPlan

    torch.set_num_threads(THREADS)
    workspace, plan = load_workspace(REPO), WorldPlan(users=users, seed=7)
    log = write_log(folder / "events", workspace, plan)
    as_of = plan.moment(plan.days)
    config = preset_config("tiny", workspace)
    arrays = load_event_arrays(log, workspace, before=as_of)
    texts = [scenario.query for scenario in workspace.scenarios.values()]
    tokenizer = make_tokenizer(config, [*arrays.texts, *texts])
    model = build_model(config, tokenizer).eval().requires_grad_(False)
    normaliser = Normaliser.fit(arrays, workspace.modalities)
    loaded = LoadedModel(
        model, tokenizer, normaliser, config, {}, "untrained", choose_runtime("cpu", "float32")
    )
    chance = torch.Generator().manual_seed(0)
    prompts = torch.randn(len(texts), PROMPT_TOKENS, config.backbone.width, generator=chance) * 0.1
    queries = [
        Query(text, SoftPrompt(prompt, torch.zeros(2, config.embedding_width)))
        for text, prompt in zip(texts, prompts, strict=True)
    ]
    return Bench(log, workspace, as_of, loaded, queries, rounds)


def write_log(root: Path, workspace: Workspace, plan: Any, together: int = 1) -> EventLog:
    """The events of a simulated world as an event log, written as `events load` writes them.

    Args:
        root: folder of the log.
        workspace: names of the columns.
        plan: plan of the world.
        together: number of blocks of users per file.
    """
    from qanchor.simulation.world import simulate_block

    log = EventLog(root, workspace)
    for first in range(0, plan.blocks, together):
        some = range(first, min(first + together, plan.blocks))
        events = pa.concat_tables([simulate_block(plan, n, ceilings=False).events for n in some])
        columns = {
            field.name: events[field.name]
            if field.name in events.column_names
            else pa.nulls(len(events), field.type)
            for field in log.schema
        }
        columns["_ingested_at"] = columns["event_time"]  # as if consumed at once
        log.publish(log.stage(pa.table(columns)))
    log.close()
    return log


def _read(bench: Bench) -> EventArrays:
    """The events of a snapshot: the window before its cut-off."""
    after = bench.as_of - timedelta(days=bench.workspace.window_days)
    return load_event_arrays(bench.log, bench.workspace, before=bench.as_of, after=after)


def _requests(bench: Bench, arrays: EventArrays, users: int) -> tuple[Int64, Int64]:
    """Evenly spaced users, so that a part has the same distribution of lengths as the whole."""
    rows = np.linspace(0, len(arrays.users) - 1, min(users, len(arrays.users))).astype(np.int64)
    return rows, np.full(len(rows), to_microseconds(bench.as_of))


def _turns(rounds: int, ways: Sequence[Callable[[], Any]]) -> list[float]:
    """Median seconds of each way; the ways alternate, so that a busy machine affects all alike."""
    seconds = np.empty((rounds, len(ways)))
    for turn in range(rounds):
        for number, way in enumerate(ways):
            began = time.perf_counter()
            way()
            seconds[turn, number] = time.perf_counter() - began
    return [float(value) for value in np.median(seconds, axis=0)]


def _against_straightforward(bench: Bench, arrays: EventArrays, figures: dict[str, Any]) -> float:
    """Users a second of both ways on the same users; returns ours on many users."""
    from benchmarks.straightforward import StraightforwardEmbedder
    from qanchor.model.embedder import UserEmbedder

    ours, theirs = UserEmbedder(bench.loaded), StraightforwardEmbedder(bench.loaded)
    rows, cutoffs = _requests(bench, arrays, 256)
    many = _requests(bench, arrays, 2000)
    one, other = (way.embed(arrays, rows, cutoffs, bench.queries) for way in (ours, theirs))
    figures["largest difference of a vector's entry"] = float(np.abs(one - other).max())
    fast, slow = _turns(
        bench.rounds,
        [
            lambda: ours.embed(arrays, *many, bench.queries),
            lambda: theirs.embed(arrays, rows, cutoffs, bench.queries),
        ],
    )
    embedded = len(many[0])
    figures["users/s, ten scenarios"] = embedded / fast
    figures["users/s, ten scenarios, straightforward"] = len(rows) / slow
    figures["users/s against the straightforward way"] = embedded / fast / (len(rows) / slow)
    return embedded / fast


def _one_more_scenario(bench: Bench, arrays: EventArrays, figures: dict[str, Any]) -> None:
    """The tenth scenario's added cost, against its added tokens."""
    from qanchor.events.history import slice_histories
    from qanchor.model.batch import prefix_lengths
    from qanchor.model.embedder import UserEmbedder

    embedder, config = UserEmbedder(bench.loaded), bench.loaded.config
    rows, cutoffs = _requests(bench, arrays, 1000)
    counts = [1, len(bench.queries)]
    ways = [
        lambda number=count: embedder.embed(arrays, rows, cutoffs, bench.queries[:number]) for count in counts
    ]
    alone, all_ = _turns(bench.rounds, ways)
    lengths = prefix_lengths(slice_histories(arrays, rows, cutoffs, bench.workspace), config)
    pad = bench.loaded.tokenizer.pad_id
    ids = bench.loaded.tokenizer.encode_queries([query.text for query in bench.queries])
    suffixes = (ids != pad).sum(dim=1).numpy() + PROMPT_TOKENS
    cost = (all_ - alone) / (len(bench.queries) - 1) / alone
    share = float(suffixes[1:].mean() / (lengths.mean() + suffixes[0]))
    figures["prefix tokens of a user"] = float(lengths.mean())
    figures["suffix tokens of a scenario"] = float(suffixes.mean())
    figures["seconds per 1,000 users, one scenario"] = alone * 1000 / len(rows)
    figures["seconds per 1,000 users, one more scenario"] = cost * alone * 1000 / len(rows)
    figures["cost of one more scenario, share"] = cost
    figures["tokens of one more scenario, share"] = share
    figures["cost of one more scenario by its share of tokens"] = cost / share


def _reading(bench: Bench, ours: float, figures: dict[str, Any]) -> None:
    """Users per second from the event log to token ids, against the model's rate."""
    from qanchor.events.history import slice_histories

    config, tokenizer = bench.loaded.config, bench.loaded.tokenizer
    latest: list[EventArrays] = []

    def read() -> None:
        arrays = _read(bench)
        rows = np.arange(len(arrays.users))
        slice_histories(arrays, rows, np.full(len(rows), to_microseconds(bench.as_of)), bench.workspace)
        tokenizer.tokenise_events(arrays.texts, config.text_encoder.max_tokens)
        latest[:] = [arrays]

    seconds = _turns(bench.rounds, [read])[0]
    figures["events read"] = sum(len(part.time) for part in latest[0].modalities)
    figures["users/s, read and tokenised"] = len(latest[0].users) / seconds
    figures["read and tokenised by the model's rate"] = len(latest[0].users) / seconds / ours


def _in_shards(bench: Bench, figures: dict[str, Any]) -> None:
    """Reading, embedding and writing shard by shard: one after the other, and overlapped."""
    from qanchor.model.embedder import UserEmbedder
    from qanchor.threads import ahead

    everyone = _read(bench).users
    firsts = everyone[:: -(-len(everyone) // SHARDS)].tolist()
    after = bench.as_of - timedelta(days=bench.workspace.window_days)
    folder = bench.log.root.parent
    began = time.perf_counter()
    parts = sort_by_user(
        bench.log, bench.workspace, folder / "split", firsts, before=bench.as_of, after=after
    )
    figures["seconds to split the log, per 1,000 users"] = (
        (time.perf_counter() - began) * 1000 / len(everyone)
    )
    embedder = UserEmbedder(bench.loaded)

    def embedded(arrays: EventArrays) -> Any:
        rows = np.arange(len(arrays.users))
        cutoffs = np.full(len(rows), to_microseconds(bench.as_of))
        return embedder.embed(arrays, rows, cutoffs, bench.queries)

    def write(vectors: Any) -> None:
        for number, block in enumerate(vectors):
            flat = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), block.shape[1])
            pq.write_table(pa.table({"vector": flat}), folder / f"{number}.parquet", compression="lz4")

    def in_turn() -> None:
        for part in parts:
            write(embedded(load_event_arrays(part, bench.workspace)))

    def overlapped() -> None:
        read = ahead(load_event_arrays(part, bench.workspace) for part in parts)
        for vectors in ahead(embedded(arrays) for arrays in read):
            write(vectors)

    alone, together = _turns(bench.rounds, [in_turn, overlapped])
    figures["users/s, read, embedded and written in turn"] = len(everyone) / alone
    figures["users/s, read, embedded and written, overlapped"] = len(everyone) / together


def bars(figures: dict[str, Any]) -> list[Bar]:
    """The bars."""
    return [
        Bar(
            "users/s against the straightforward way",
            figures["users/s against the straightforward way"],
            10,
            "higher",
        ),
        Bar(
            "largest difference of a vector's entry",
            figures["largest difference of a vector's entry"],
            1e-4,
            "lower",
        ),
        Bar(
            "cost of one more scenario by its share of tokens",
            figures["cost of one more scenario by its share of tokens"],
            1.3,
            "lower",
        ),
        Bar(
            "read and tokenised by the model's rate",
            figures["read and tokenised by the model's rate"],
            3,
            "higher",
        ),
    ]


if __name__ == "__main__":
    main()
