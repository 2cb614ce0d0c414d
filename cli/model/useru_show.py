"""`useru show`: the counts of a set as tables and bars, its pairs as cards."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.output import open_console, print_json
from qanchor.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from qanchor.training.useru.store import Manifest

_BAR = 14
_TOPICS = 12
_NAMES = {
    "future whole": "D_future  all events",
    "future modality": "D_future  one modality",
    "future topic": "D_future  one topic",
    "future scenario": "D_future  a scenario",
}


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The pairs of a set that are shown."""

    samples: Annotated[int, typer.Option(min=0, max=1000, help="Number of pairs to show.")] = 6
    topic: Annotated[str, typer.Option(help="Only pairs of this topic or modality.")] = ""
    user: Annotated[str, typer.Option(metavar="USER_ID", help="Only pairs about this user.")] = ""
    dropped: Annotated[
        bool, typer.Option("--dropped", help="Show pairs that the checks have dropped, and why.")
    ] = False

    def read(self, folder: Path) -> list[dict[str, Any]]:
        """Pairs at even distances, so that both data sets and many users are among them.

        Raises:
            NotReady: the folder has no set.
            InputError: no pair is of that topic or user.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        from qanchor.training.useru.store import read_pairs

        if not self.samples:
            return []
        table = read_pairs(folder, self.dropped)
        filters = {"topic": self.topic, "user": self.user}
        for name, value in filters.items():
            if value:
                table = table.filter(pc.equal(table["user_id" if name == "user" else name], value))
        if not table.num_rows and any(filters.values()):
            subject = " and ".join(f"{name} {value!r}" for name, value in filters.items() if value)
            raise InputError(f"no pair is about {subject}", "`useru show` without it lists the topics.")
        count = min(self.samples, table.num_rows)
        # The middle of each part, because a fixed step could always meet the same row of a block.
        rows: list[dict[str, Any]] = table.take(
            pa.array([(2 * i + 1) * table.num_rows // (2 * count) for i in range(count)], pa.int64())
        ).to_pylist()
        return rows


def show_set(folder: Path, samples: Samples, *, as_json: bool) -> None:
    """Print statistics of a set and samples of it.

    Args:
        folder: folder of the set.
        samples: pairs to show.
        as_json: whether to print one JSON document.

    Raises:
        NotReady: the folder has no set.
        InputError: no pair is of the requested topic or user.
    """
    from qanchor.training.useru.store import read_manifest

    manifest = read_manifest(folder)
    rows = samples.read(folder)
    if as_json:
        import msgspec

        print_json({"folder": str(folder), **msgspec.to_builtins(manifest), "samples": rows})
        return
    console = open_console(pipe_width=110)
    _print_statistics(console, folder, manifest)
    for row in rows:
        _print_sample(console, row)


def _print_statistics(console: "Console", folder: Path, manifest: "Manifest") -> None:
    from rich.columns import Columns
    from rich.padding import Padding
    from rich.text import Text

    pairs = sum(manifest.counts["dataset"].values())
    build = manifest.build
    by = f"{build['writer']} writer" + (f", {build['model']}" if build["model"] else "")
    console.print(f"[bold]{pairs:,} pairs[/] about {manifest.users:,} users at {manifest.points:,} cut-offs")
    console.print(Text(f"{folder}  {by}  events before {manifest.until:%Y-%m-%d %H:%M} UTC", "dim"))
    if not manifest.complete:
        console.print(Text(f"not complete: {manifest.stopped}", "yellow"))
    console.print()
    kinds = {_NAMES.get(k, k.replace("uqa ", "D_uqa     ")): n for k, n in manifest.counts["kind"].items()}
    horizons = {f"{days} days": count for days, count in manifest.counts["horizon"].items()}
    words = {f"{low} to {int(low) + 9} words": count for low, count in manifest.words.items()}
    tables = [
        _bars("kinds of question", dict(sorted(kinds.items()))),
        _bars("horizons of D_future", horizons),
        _bars("length of the answers", words),
        _bars(_topic_title(manifest), dict(list(manifest.counts["topic"].items())[:_TOPICS])),
    ]
    console.print(Columns([Padding(table, (0, 4, 1, 0)) for table in tables if table.row_count]))
    _print_reflection(console, manifest)


def _topic_title(manifest: "Manifest") -> str:
    listed = sum(bool(topic["listed"]) for topic in manifest.pool)
    return f"topics of D_uqa: {listed} listed, {len(manifest.pool) - listed} from the log"


def _print_reflection(console: "Console", manifest: "Manifest") -> None:
    verdicts, statements = manifest.counts["verdict"], manifest.counts["statements"]
    total = max(1, sum(verdicts.values()))
    shares = ", ".join(
        f"{verdicts.get(name, 0):,} {name} ({verdicts.get(name, 0) / total:.1%})"
        for name in ("supported", "revised", "repaired", "dropped")
        if verdicts.get(name, 0) or name != "revised"
    )
    console.print(f"[bold]reflection[/]  {statements.get('checked', 0):,} statements checked: {shares}")
    if manifest.faults:
        faults = ", ".join(f"{count:,} {name}" for name, count in manifest.faults.items())
        console.print(f"            faults: {faults}", markup=False)
    spent = manifest.spending
    if spent:
        money = f", cost {spent['cost']:,.4f}" if spent.get("cost") else ""
        console.print(
            f"[bold]spent[/]       {spent['calls']:,} calls, {spent['prompt_tokens']:,} tokens read, "
            f"{spent['reply_tokens']:,} written{money}\n            {spent.get('from_cache', 0):,} replies "
            f"from the cache, {spent.get('malformed', 0):,} malformed"
        )


def _bars(title: str, counts: Mapping[str, int]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, show_header=False
    )
    longest = max(counts.values(), default=1)
    for name, count in counts.items():
        bar = "█" * max(1, round(_BAR * count / longest))
        table.add_row(Text(name), f"{count:,}", Text(bar, style="cyan"))
    for column in table.columns[1:2]:
        column.justify = "right"
    return table


def _print_sample(console: "Console", row: Mapping[str, Any]) -> None:
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    about = f"D_{row['dataset']}  {row['kind']}" + (f"  {row['topic']}" if row["topic"] else "")
    span = f"{abs(row['days'])} days {'before' if row['days'] < 0 else 'after'}"
    lines = [
        Text(row["question"], style="bold"),
        Text(row["answer"] or row["draft"] or "(no answer)"),
        Text(""),
        Text(_grounds(row), style="dim"),
    ]
    if row["faults"]:
        lines.append(Text(_wrapped("faults", row["faults"]), style="yellow"))
    if row["draft"] and row["answer"]:
        lines.append(Text(f"first draft: {row['draft']}", style="yellow"))
    by = row["writer"] + (f" {row['model']}" if row["model"] else "")
    console.print(
        Panel(
            Group(*lines),
            title=Text(about),
            title_align="left",
            subtitle=Text(f"user {row['user_id']}  {span} {row['cutoff']:%Y-%m-%d}  {row['verdict']}, {by}"),
            subtitle_align="right",
            border_style="cyan" if row["dataset"] == "uqa" else "green",
        )
    )


def _grounds(row: Mapping[str, Any]) -> str:
    """The facts of an answer; only their names where the answer consists of their sentences."""
    if row["writer"] == "grounded":
        return _wrapped("rests on", row["facts_used"])
    return _wrapped("facts", [f"{fact['name']}: {fact['says']}" for fact in row["facts"]])


def _wrapped(head: str, items: Sequence[str]) -> str:
    return textwrap.shorten(f"{head}: {' | '.join(items)}", 900, placeholder=" ...")
