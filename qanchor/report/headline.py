"""The whole report in a few plain sentences."""

from collections.abc import Callable, Sequence

from qanchor.report.findings import Check, Statement
from qanchor.report.summary import ScenarioSummary


def headline(scenarios: Sequence[ScenarioSummary]) -> tuple[Statement, ...]:
    """What all scenarios together say, for a reader who reads nothing else.

    Args:
        scenarios: those of the report; at least one. One alone speaks for itself.
    """
    if len(scenarios) == 1:
        return scenarios[0].statements
    best, worst = (pick(scenarios, key=_auc) for pick in (max, min))
    ranking = (
        f"The scores rank users with an AUC of {_auc(worst):.3f} ({worst.name}) to {_auc(best):.3f} "
        f"({best.name}), on test rows whose labels no training step has seen."
    )
    way = [one.way for one in scenarios if one.way is not None]
    if way:
        ranking += f" They come {sum(way) / len(way):.0%} of the way from chance to what this world allows."
    lifts = [one.card.metrics["head"]["lift_10"] for one in scenarios]
    campaign = (
        f"Contacting the best-scored tenth of the users reaches {_range(lifts)} times as many of the wanted "
        "ones as a random list."
    )
    said = [Statement("Ranking", ranking), Statement("Campaigns", campaign), _against(scenarios)]
    said += _tuning(scenarios)
    return (*said, _chances(scenarios), _look(scenarios))


def _auc(one: ScenarioSummary) -> float:
    return one.card.metrics["head"]["auc"]


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


def _of(scenarios: Sequence[ScenarioSummary], holds: Callable[[ScenarioSummary], bool]) -> str:
    return f"{sum(holds(one) for one in scenarios)} of {len(scenarios)}"


def _check(one: ScenarioSummary, name: str) -> Check:
    return next(check for check in one.checks if check.name == name)


def _against(scenarios: Sequence[ScenarioSummary]) -> Statement:
    ahead = _of(scenarios, lambda one: _check(one, "against aggregates").state == "good")
    behind = _of(scenarios, lambda one: _check(one, "against aggregates").state == "look")
    straight = _of(scenarios, lambda one: _check(one, "against a straight line").state == "look")
    return Statement(
        "Simpler ways",
        f"The head is clearly ahead of the best head on hand-made aggregates alone in {ahead} scenarios "
        f"and clearly behind it in {behind}; it is clearly behind a straight line on the embedding in "
        f"{straight}.",
    )


def _tuning(scenarios: Sequence[ScenarioSummary]) -> list[Statement]:
    gains = [one.anchor.gain for one in scenarios if one.anchor and one.anchor.gain]
    if not gains:
        return []
    better = sum(gain.test.difference.low > 0 for gain in gains)
    worse = sum(gain.test.difference.high < 0 for gain in gains)
    mean = sum(gain.test.difference.value for gain in gains) / len(gains)
    return [
        Statement(
            "Tuning",
            f"Prompt tuning moves a linear probe's test AUC by {mean:+.3f} on average: clearly up in "
            f"{better} of {len(gains)} scenarios, clearly down in {worse}.",
        )
    ]


def _chances(scenarios: Sequence[ScenarioSummary]) -> Statement:
    name = "chances"
    honest = _of(scenarios, lambda one: _check(one, name).state == "good")
    rough = _of(scenarios, lambda one: _check(one, name).state == "fair")
    return Statement(
        "Chances",
        f"Scores can be read as chances in {honest} scenarios (off by 2 points or less on average), roughly "
        f"in {rough}; elsewhere use them for order.",
    )


def _look(scenarios: Sequence[ScenarioSummary]) -> Statement:
    found = [
        f"{one.name} ({', '.join(check.fault for check in one.checks if check.fault)})"
        for one in scenarios
        if any(check.fault for check in one.checks)
    ]
    return Statement("Look at", "; ".join(found) + "." if found else "No check asks for a closer look.")
