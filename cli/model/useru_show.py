"""How a set of pairs is shown: counts as tables and bars, samples as cards; JSON for programs."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.output import print_json
from qanchor.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from qanchor.training.useru.store import Manifest

_BAR = 14
_TOPICS = 12
_NAMES = {
    "future whole": "D_future  everything",
    "future modality": "D_future  one modality",
    "future topic": "D_future  one topic",
    "future scenario": "D_future  a scenario",
}


def show_set(folder: Path, samples: int, topic: str, user: str, *, dropped: bool, as_json: bool) -> None:
    """Statistics of a set and samples of it.

    Args:
        folder: of the set.
        samples: how many pairs, spread over the set.
        topic: only of this topic, modality or scenario; empty: of any.
        user: only about this user; empty: about any.
        dropped: sample what was dropped instead.
        as_json: one JSON document.

    Raises:
        NotReady: there is no set in the folder.
        InputError: no pair is of that topic or user.
    """
    from qanchor.training.useru.store import read_manifest

    manifest = read_manifest(folder)
    chosen = _samples(folder, samples, topic, user, dropped) if samples else []
    if as_json:
        import msgspec

        print_json({"folder": str(folder), **msgspec.to_builtins(manifest), "samples": chosen})
        return
    from rich.console import Console

    console = Console(highlight=False)
    console = console if console.is_terminal else Console(width=110, highlight=False)
    _print_statistics(console, folder, manifest)
    for row in chosen:
        _print_sample(console, row)


def _samples(folder: Path, most: int, topic: str, user: str, dropped: bool) -> list[dict[str, Any]]:
    """Pairs at even distances, so that both data sets and many users are among them."""
    import pyarrow.compute as pc

    from qanchor.training.useru.store import read_pairs

    table = read_pairs(folder, dropped)
    for column, value in (("topic", topic), ("user_id", user)):
        if value:
            table = table.filter(pc.equal(table[column], value))
    if not table.num_rows and (topic or user):
        what = " and ".join(
            f"{name} {value!r}" for name, value in (("topic", topic), ("user", user)) if value
        )
        raise InputError(f"no pair is about {what}", "`useru show` without it lists the topics.")
    count = min(most, table.num_rows)
    # A step that shares no factor with a block's rows would be luck: the middle of each part it is.
    places = [(2 * i + 1) * table.num_rows // (2 * count) for i in range(count)]
    rows: list[dict[str, Any]] = table.take(places).to_pylist() if places else []
    return rows


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
    found = len(manifest.pool) - listed
    return f"topics of D_uqa: {listed} listed, {found} found in the log"


def _print_reflection(console: "Console", manifest: "Manifest") -> None:
    verdicts, statements = manifest.counts["verdict"], manifest.counts["statements"]
    total = max(1, sum(verdicts.values()))
    told = ", ".join(
        f"{verdicts.get(name, 0):,} {name} ({verdicts.get(name, 0) / total:.1%})"
        for name in ("supported", "revised", "repaired", "dropped")
        if verdicts.get(name, 0) or name != "revised"
    )
    console.print(f"[bold]reflection[/]  {statements.get('checked', 0):,} statements checked: {told}")
    if manifest.faults:
        faults = ", ".join(f"{count:,} {name}" for name, count in manifest.faults.items())
        console.print(f"            faults: {faults}")
    spent = manifest.spending
    if spent:
        money = f", cost {spent['cost']:,.4f}" if spent.get("cost") else ""
        console.print(
            f"[bold]spent[/]       {spent['calls']:,} calls, {spent['prompt_tokens']:,} tokens read, "
            f"{spent['reply_tokens']:,} written{money}\n            {spent.get('from_cache', 0):,} replies "
            f"from the cache, {spent.get('malformed', 0):,} without the form asked for"
        )


def _bars(title: str, counts: Mapping[str, int]) -> Any:
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
        lines.append(Text(f"as first written: {row['draft']}", style="yellow"))
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
    """What an answer rests on; of answers that are the facts' own sentences the names alone."""
    if row["writer"] == "grounded":
        return _wrapped("rests on", row["facts_used"])
    return _wrapped("facts", [f"{fact['name']}: {fact['says']}" for fact in row["facts"]])


def _wrapped(head: str, items: Sequence[str]) -> str:
    return textwrap.shorten(f"{head}: {' | '.join(items)}", 900, placeholder=" ...")
