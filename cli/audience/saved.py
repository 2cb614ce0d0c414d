"""How saved audiences are printed: their facts, versions, replays and overlaps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from cli.audience.search import count
from cli.output import print_json, print_table

if TYPE_CHECKING:
    from qanchor.audience.algebra import Shared
    from qanchor.audience.saved import Replay
    from qanchor.registry.tables import Audience


def audience_facts(saved: "Audience") -> dict[str, Any]:
    """What the registry holds of a saved audience."""
    return {
        "name": saved.name,
        "version": saved.version,
        "kind": saved.kind,
        "scenario": saved.scenario,
        "users": saved.rows,
        "saved": saved.created_at,
        "index": saved.index_version,
        "space": saved.fingerprint,
        "seeds_hash": saved.seeds_hash,
        "members_hash": saved.content_hash,
        "parameters": {name: value for name, value in saved.parameters.items() if value is not None},
    }


def show_saved(saved: "Audience", as_json: bool) -> None:
    """The audience that a command has just saved."""
    if as_json:
        print_json(audience_facts(saved))
    else:
        typer.echo(f"saved {saved.name}@{saved.version}: {count(saved.rows, 'user')}")


def show_versions(audiences: Sequence["Audience"], as_json: bool) -> None:
    """All saved audiences."""
    if as_json:
        print_json({"audiences": [audience_facts(saved) for saved in audiences]})
        return
    columns = ("name", "version", "kind", "scenario", "users", "saved")
    rows = [{name: audience_facts(saved)[name] for name in columns} for saved in audiences]
    if rows:
        print_table("Audiences", rows)
    else:
        typer.echo("no audience is saved yet: qanchor-cli audience save NAME")


def show_replay(replay: "Replay", as_json: bool) -> None:
    """Whether a replay gave the same users."""
    saved = replay.saved
    if as_json:
        print_json(
            {
                "name": saved.name,
                "version": saved.version,
                "same": replay.same,
                "users": saved.rows,
                "users_now": replay.result.table.num_rows,
                "added": replay.added,
                "removed": replay.removed,
                "changes": list(replay.changes),
            }
        )
        return
    name = f"{saved.name}@{saved.version}"
    if replay.same:
        typer.echo(f"{name}: the same {count(saved.rows, 'user')} in the same order")
    else:
        typer.echo(f"{name}: {replay.added:,} users added, {replay.removed:,} removed, of {saved.rows:,}")
    for change in replay.changes:
        typer.echo(f"changed: {change}")


def show_overlaps(pairs: Sequence["Shared"], as_json: bool) -> None:
    """What pairs of audiences share."""
    rows = [
        {
            "audience": pair.one,
            "other": pair.other,
            "users": pair.users,
            "other_users": pair.other_users,
            "both": pair.both,
            "share_of_audience": pair.both / pair.users,
            "share_of_other": pair.both / pair.other_users,
            "jaccard": pair.jaccard,
        }
        for pair in pairs
    ]
    if as_json:
        print_json({"pairs": rows})
    else:
        print_table("Overlap", rows)
