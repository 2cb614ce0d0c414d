"""`qanchor-cli audience quality`: how the report on a list is printed."""

from collections.abc import Sequence
from dataclasses import asdict
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cli.audience.search import Search, count, print_notes, search_notes
from cli.output import print_json, print_table
from cli.stages import progress

if TYPE_CHECKING:
    from qanchor.audience.lift import Overlap, Quality
    from qanchor.audience.profile import Profile, Trait

_TRAITS = 10


def show_quality(search: Search, chart: Path | None, as_json: bool) -> None:
    """Recall and lift of held-out seeds, overlap, and what sets the list apart."""
    from qanchor.audience.lift import measure_overlap, measure_quality
    from qanchor.audience.profile import profile_audience

    population, result, notes = search.population, search.result, search_notes(search)
    overlap = None
    with progress() as bar:
        bar.start("ranking held-out seeds")
        quality = measure_quality(population, search.request, search.words.scorer if search.words else None)
        bar.start("comparing the list with the others")
        if result.seeds is not None and len(result.seeds.rows) > 1:
            overlap = measure_overlap(population, result.seeds, result.rows, result.candidates)
        profile = profile_audience(population, result.rows, result.candidates, search.site.event_log)
    if chart is not None:
        from qanchor.charts.audience_chart import audience_lift_chart
        from qanchor.charts.drawing import draw_chart

        draw_chart(audience_lift_chart(quality, population.scenario), chart)
    if as_json:
        print_json(_as_json(search, quality, overlap, profile))
    else:
        _print_lift(population.scenario, quality)
        _print_overlap(overlap)
        _print_profile(profile)
    if quality.outside:
        notes.append(f"{count(quality.outside, 'seed')} could not be found by this search")
    if chart is not None:
        notes.append(f"wrote the lift curve to {chart}")
    print_notes(notes)


def _print_lift(scenario: str, quality: "Quality") -> None:
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
    print_table(f"{scenario}: {held} looked for among {quality.population:,} users", rows)
    folds = sum(quality.methods.values())
    used = ", ".join(f"{name} ({number} of {folds} folds)" for name, number in quality.methods.items())
    typer.echo(
        f"method: {used}. Users who resemble the seeds and are no seeds count against it: a lower bound.\n"
    )


def _print_overlap(overlap: "Overlap | None") -> None:
    if overlap is not None:
        typer.echo(
            f"overlap: {overlap.audience:.1%} of the list are as close to a seed as 95% of the seeds are to"
            f" another (distance {overlap.distance:.3f}); of everybody, {overlap.base:.1%} are\n"
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
    title = f"{profile.audience:,} of the list against {profile.base:,} others"
    if levels:
        print_table(f"{title}: activity, differences in standard deviations", levels)
        typer.echo("")
    if shares:
        print_table(f"{title}: share of users with such events in the window", shares)
    if not levels and not shares:
        typer.echo(f"{title}: no significant difference")


def _as_json(
    search: Search, quality: "Quality", overlap: "Overlap | None", profile: "Profile"
) -> dict[str, Any]:
    points = [
        {
            **asdict(point),
            "lift": point.lift,
            "lift_low": point.lift_interval[0],
            "lift_high": point.lift_interval[1],
        }
        for point in quality.points
    ]
    return {
        "scenario": search.population.scenario,
        "index": search.population.version,
        "population": quality.population,
        "held_out_seeds": len(quality.ranks),
        "seeds_outside": quality.outside,
        "methods": dict(quality.methods),
        "points": points,
        "overlap": asdict(overlap) if overlap else None,
        "profile": {
            "audience": profile.audience,
            "base": profile.base,
            "traits": _certain_traits(profile.traits),
        },
    }


def _certain_traits(traits: "Sequence[Trait]") -> list[dict[str, Any]]:
    return [asdict(trait) for trait in traits if trait.certain > 0]
