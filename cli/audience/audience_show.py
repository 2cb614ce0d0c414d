"""How audiences are shown: tables for people, JSON for programs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cli.audience.audience_options import count, describe_choice, found_as_json
from cli.output import print_json, print_table

if TYPE_CHECKING:
    from cli.audience.audience_search import Search, SearchResult
    from qanchor.audience.algebra import Shared
    from qanchor.audience.lift import Overlap, Quality
    from qanchor.audience.profile import Profile, Trait
    from qanchor.audience.saved import Replay
    from qanchor.registry.tables import Audience

_SHOWN = 50
_TRAITS = 10


def show_found(table: Any, title: str) -> None:
    """The first rows of an audience as a table, the nearest seeds in one cell."""
    rows = table.slice(0, _SHOWN).to_pylist()
    for row in rows:
        if "nearest_seeds" in row:
            row["nearest_seeds"] = " ".join(row["nearest_seeds"] or []) or None
    if rows:
        print_table(title, rows)


def show_search(search: "Search", result: "SearchResult", out: Path | None, as_json: bool) -> None:
    """A described audience, and how many of its users have events that name the words."""
    from qanchor.audience.profile import profile_mentions
    from qanchor.user_files import write_result

    found, words, notes = result.found, result.words, search.notes(result)
    mentions = None
    if words is not None and words.matched and len(found.rows) > 1:
        log = search.site.event_log
        mentions = profile_mentions(search.population, found.rows, found.candidates, log, words.matched)
    if out is not None:
        write_result(found.table, out)
        notes.append(f"wrote {found.table.num_rows:,} rows to {out}")
    if as_json:
        told = {
            "words": list(words.matched) if words else [],
            "mentions": _trait(mentions) if mentions else None,
        }
        print_json({**found_as_json(found, search.population), **told})
    else:
        show_found(found.table, "Audience")
        _say_search(search, result)
        if mentions is not None:
            _say_mentions(mentions)
        if found.table.num_rows > _SHOWN and out is None:
            notes.append(f"{found.table.num_rows - _SHOWN:,} more rows: --out FILE or --json gives all")
    for note in notes:
        typer.echo(f"note: {note}", err=True)


def _say_search(search: "Search", result: "SearchResult") -> None:
    found = result.found
    like = []
    if result.words is not None:
        like.append("the words " + (", ".join(result.words.matched) or repr(result.words.text)))
    if found.seeds and found.choice:
        like.append(f"{count(len(found.seeds.rows), 'seed')}, {describe_choice(found.choice)}")
    typer.echo(
        f"{search.population.scenario}: like {' and '.join(like)}; among "
        f"{found.candidates.population:,} users"
    )


def _say_mentions(mentions: "Trait") -> None:
    interval = f"{mentions.low:+.2f} to {mentions.high:+.2f}"
    typer.echo(
        f"events that name these words: {mentions.audience:.1f} a user, {mentions.base:.1f} among the others "
        f"({mentions.effect:+.2f} standard deviations, 95% {interval})"
    )


def show_quality(search: "Search", result: "SearchResult", chart: Path | None, as_json: bool) -> None:
    """Recall and lift of held-out seeds, overlap, and what sets the list apart."""
    from qanchor.audience.lift import measure_overlap, measure_quality
    from qanchor.audience.profile import profile_audience

    population, found = search.population, result.found
    quality = measure_quality(population, result.request, result.scorer)
    overlap = None
    if found.seeds is not None and len(found.seeds.rows) > 1:
        overlap = measure_overlap(population, found.seeds, found.rows, found.candidates)
    log = search.site.event_log
    profile = profile_audience(population, found.rows, found.candidates, log)
    if chart is not None:
        from qanchor.charts.audience_chart import save_lift_chart

        save_lift_chart(quality, population.scenario, chart)
    if as_json:
        print_json(_quality_json(search, quality, overlap, profile))
    else:
        _print_lift(search, quality)
        _print_overlap(overlap)
        _print_profile(profile)
    for note in search.notes(result):
        typer.echo(f"note: {note}", err=True)
    if quality.outside:
        typer.echo(f"note: {count(quality.outside, 'seed')} could not be found by this search", err=True)
    if chart is not None:
        typer.echo(f"note: wrote the lift curve to {chart}", err=True)


def _print_lift(search: "Search", quality: "Quality") -> None:
    rows = [
        {
            "best": f"{point.share:.3g}".rstrip("0") if point.share < 0.01 else f"{point.share:.1%}",
            "users": point.users,
            "held-out seeds found": point.found,
            "recall": f"{point.recall:.1%}",
            "95%": f"{point.recall_low:.1%} to {point.recall_high:.1%}",
            "lift": f"{point.lift:.2f}",
            "lift 95%": "{:.2f} to {:.2f}".format(*point.lift_interval),
        }
        for point in quality.points
    ]
    held = count(len(quality.ranks), "held-out seed")
    print_table(f"{search.population.scenario}: {held} looked for among {quality.population:,} users", rows)
    used = ", ".join(
        f"{name} ({folds} of {sum(quality.methods.values())} folds)"
        for name, folds in quality.methods.items()
    )
    typer.echo(
        f"method: {used}. Users of the seeds' kind who are no seeds count against it: a lower bound.\n"
    )


def _print_overlap(overlap: "Overlap | None") -> None:
    if overlap is not None:
        typer.echo(
            f"overlap: {overlap.audience:.1%} of the list lie as close to a seed as 95% of the seeds do to"
            f" another (distance {overlap.distance:.3f}); of everybody {overlap.base:.1%} do\n"
        )


def _print_profile(profile: "Profile") -> None:
    levels = [
        {
            "activity level": trait.name,
            "list": round(trait.audience, 2),
            "others": round(trait.base, 2),
            "difference": f"{trait.effect:+.2f}",
            "95%": f"{trait.low:+.2f} to {trait.high:+.2f}",
        }
        for trait in profile.of("level")[:_TRAITS]
    ]
    from math import exp

    shares = [
        {
            "modality or category": trait.name,
            "list": f"{trait.audience:.1%}",
            "others": f"{trait.base:.1%}",
            "times": f"{trait.ratio:.2f}",
            "95%": f"{exp(trait.low):.2f} to {exp(trait.high):.2f}",
        }
        for trait in profile.of("modality", "category")[:_TRAITS]
    ]
    title = f"{profile.audience:,} of the list beside {profile.base:,} others"
    if levels:
        print_table(f"{title}: activity, differences in standard deviations", levels)
        typer.echo("")
    if shares:
        print_table(f"{title}: share of users with such events in the window", shares)
    if not levels and not shares:
        typer.echo(f"{title}: nothing sets them apart for sure")


def _quality_json(
    search: "Search", quality: "Quality", overlap: "Overlap | None", profile: "Profile"
) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "scenario": search.population.scenario,
        "index": search.population.version,
        "population": quality.population,
        "held_out_seeds": len(quality.ranks),
        "seeds_outside": quality.outside,
        "methods": dict(quality.methods),
        "points": [
            {
                **asdict(point),
                "lift": point.lift,
                "lift_low": point.lift_interval[0],
                "lift_high": point.lift_interval[1],
            }
            for point in quality.points
        ],
        "overlap": asdict(overlap) if overlap else None,
        "profile": {
            "audience": profile.audience,
            "base": profile.base,
            "traits": [_trait(trait) for trait in profile.traits if trait.certain > 0],
        },
    }


def _trait(trait: "Trait") -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(trait)


def audience_facts(saved: "Audience") -> dict[str, Any]:
    """What the registry holds of a saved audience."""
    told = {name: value for name, value in saved.parameters.items() if value is not None}
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
        "parameters": told,
    }


def show_versions(audiences: Sequence["Audience"], as_json: bool) -> None:
    """All saved audiences."""
    if as_json:
        print_json({"audiences": [audience_facts(saved) for saved in audiences]})
        return
    rows = [
        {
            "name": saved.name,
            "version": saved.version,
            "kind": saved.kind,
            "scenario": saved.scenario,
            "users": saved.rows,
            "saved": saved.created_at,
        }
        for saved in audiences
    ]
    if rows:
        print_table("Audiences", rows)
    else:
        typer.echo("no audience is saved yet: qanchor-cli audience save NAME")


def show_replay(result: "Replay", as_json: bool) -> None:
    """Whether a replay gave the same users."""
    saved = result.saved
    if as_json:
        print_json(
            {
                "name": saved.name,
                "version": saved.version,
                "same": result.same,
                "users": saved.rows,
                "users_now": result.found.table.num_rows,
                "added": result.added,
                "removed": result.removed,
                "changes": list(result.changes),
            }
        )
        return
    name = f"{saved.name}@{saved.version}"
    if result.same:
        typer.echo(f"{name}: the same {count(saved.rows, 'user')} in the same order")
    else:
        typer.echo(f"{name}: {result.added:,} users added, {result.removed:,} removed, of {saved.rows:,}")
    for change in result.changes:
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
