"""Speed and recall of the search for users, at a million users.

    python -m benchmarks.audience [--quick] [--users N] [--folder DIR] [--prepare] [--no-graphs] [--json FILE]

Part one, the index: simulated vectors with clusters, and isotropic ones; ours against exact search and the
graphs of faiss and (where it is installed) hnswlib, single queries on one thread. Part two: a lookalike of
1,000 seeds with a filter. `--folder` keeps vectors and indexes, so that `--prepare` can build the graphs,
which takes many minutes, at another time.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Bar, arguments, finish, table

if TYPE_CHECKING:
    from benchmarks.audience_index import Stage

_COLUMNS = ("recall", "p50 ms", "p99 ms", "build s", "build cpu s", "bytes a user", "of these in memory")


def measure_index(stage: "Stage", graphs: bool) -> tuple[dict[str, Any], list[Bar]]:
    """One world: every index, and the effect of more or less effort."""
    from benchmarks import audience_index as indexes

    slow = indexes.exact(stage)
    fast, index = indexes.ours(stage)
    rows: list[dict[str, Any] | None] = [slow, fast]
    if graphs:
        rows += [indexes.faiss_graph(stage), indexes.hnswlib_graph(stage)]
    measured = [row for row in rows if row is not None]
    columns = ("index", *_COLUMNS, "load ms", "first query ms")
    print(f"\n{stage.world}, {stage.users:,} users, {stage.queries:,} held-out queries, one thread\n")
    print(table([{name: row.get(name, "") for name in columns} for row in measured]))
    if rows[-1] is None:
        print("hnswlib is not installed: left out (pip install hnswlib)")
    points = indexes.curve(stage, index, slow["p50 ms"])
    kept, many = indexes.filtered(stage, index), indexes.many(stage, index)
    for rows_of_table in (points, kept, many):
        print("\n" + table(rows_of_table))
    figures: dict[str, Any] = {f"{stage.world} {row['index']}": row for row in measured}
    figures |= {f"{stage.world} curve": points, f"{stage.world} filters": kept, f"{stage.world} many": many}
    return figures, indexes.bars(stage.world, fast, slow)


def measure_lookalike(stage: "Stage") -> tuple[dict[str, Any], list[Bar]]:
    """1,000 seeds, a filter that keeps one user in twenty, and an audience of 50,000 in a million."""
    from benchmarks.audience_lookalike import bars, measure_lookalikes

    rows = measure_lookalikes(stage)
    print("\nlookalike, 1,000 seeds, a filter on an activity feature\n")
    print(table(rows))
    return {f"lookalike {row['method']}, k {row['k']}": row for row in rows}, bars(rows)


def main() -> None:
    """Measure, print the tables, write the figures."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--users", type=int, help="default 1,000,000; 100,000 with --quick")
    parser.add_argument("--folder", type=Path, help="folder of vectors and indexes; default: a temporary one")
    parser.add_argument("--prepare", action="store_true", help="build the graphs into --folder and stop")
    parser.add_argument("--no-graphs", action="store_true", help="leave out the graphs of other libraries")
    parser.add_argument("--world", choices=["clustered", "isotropic"], help="this world only")
    options = parser.parse_args()
    from qanchor.threads import limit_threads

    limit_threads(0)
    from benchmarks import audience_index as indexes

    users = options.users or (100_000 if options.quick else 1_000_000)
    figures: dict[str, Any] = {}
    all_bars: list[Bar] = []
    with tempfile.TemporaryDirectory() as temporary:
        for world in (options.world,) if options.world else ("clustered", "isotropic"):
            stage = indexes.Stage(options.folder or Path(temporary), world, users, 500)
            if options.prepare:
                indexes.faiss_graph(stage)
                indexes.hnswlib_graph(stage)
                continue
            parts = [measure_index(stage, not options.no_graphs)]
            if world == "clustered":
                parts.append(measure_lookalike(stage))
            for part, bars in parts:
                figures |= part
                all_bars += bars
    if not options.prepare:
        finish(figures, all_bars, options.json)


if __name__ == "__main__":
    main()
