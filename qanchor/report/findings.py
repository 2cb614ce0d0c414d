"""The sentences and checks of the report: per scenario, and the headline over all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from qanchor.explain.attention_shift import ModalityShift
from qanchor.explain.tuning import TuningExplanation
from qanchor.heads.card import HeadCard
from qanchor.metrics import Interval
from qanchor.report.decisions import campaigns
from qanchor.workspace import ScenarioSpec

if TYPE_CHECKING:
    from qanchor.report.summary import ScenarioSummary

State = Literal["good", "fair", "look"]
# Calibration error up to which a score is a probability, and beyond which it only ranks users.
_CALIBRATED, _APPROXIMATE = 0.02, 0.05
# Customary bounds of the population stability index.
_STABLE, _SHIFTED = 0.1, 0.25
_SUFFICIENT_ROWS, _FEWEST_ROWS = 100, 30
_AGGREGATES, _PROBE, _CALIBRATION = "against aggregates", "against logistic regression", "calibration"


@dataclass(frozen=True)
class Check:
    """One check of a head.

    Args:
        name: name of the check.
        state: good, unclear, or to be reviewed.
        verdict: the state in a word or two.
        text: the figures behind it, in a sentence.
        fault: the problem in a phrase; empty unless the check is to be reviewed.
    """

    name: str
    state: State
    verdict: str
    text: str
    fault: str = ""


@dataclass(frozen=True)
class Statement:
    """A sentence or two under a heading.

    Args:
        about: heading of a word or two.
        text: the sentences.
    """

    about: str
    text: str


def check(card: HeadCard, warnings: Sequence[str]) -> tuple[Check, ...]:
    """The checks of a head, from its card.

    Args:
        card: card of the head.
        warnings: changes since the training of the head.
    """
    return (
        _against(card.metrics, "aggregates"),
        _against(card.metrics, "probe"),
        _calibration(card.metrics["head"]),
        _segments(card.segments),
        _stability(card.metrics["head"]),
        _sample_size(card.metrics["head"]),
        _up_to_date(warnings),
    )


def _judged(name: str, state: State, verdicts: Mapping[State, str], text: str, fault: str) -> Check:
    return Check(name, state, verdicts[state], text, fault if state == "look" else "")


# By scorer: the check's name, the baseline in a sentence, and the fault.
_BASELINES = {
    "aggregates": (_AGGREGATES, "the best head on aggregates", "worse than aggregates"),
    "probe": (_PROBE, "a logistic regression on the embedding", "worse than logistic regression"),
}
_BY_SIGN: dict[int, State] = {1: "good", 0: "fair", -1: "look"}
_COMPARED: dict[State, str] = {"good": "better", "fair": "unclear", "look": "worse"}


def _against(metrics: Mapping[str, Mapping[str, float]], scorer: str) -> Check:
    (name, baseline, fault), metric = _BASELINES[scorer], metrics.get(scorer, {})
    if "head_gain" not in metric:
        return Check(name, "fair", "none", f"No baseline was fitted: {scorer}.")
    gain = Interval(*(metric[name] for name in ("head_gain", "head_gain_low", "head_gain_high")))
    state = _BY_SIGN[gain.sign]
    verdict = {
        "good": "Significantly better than",
        "fair": "No significant difference from",
        "look": "Significantly worse than",
    }[state]
    text = f"{verdict} {baseline}: {gain.value:+.3f} AUC ({gain.low:+.3f} to {gain.high:+.3f})."
    return _judged(name, state, _COMPARED, text, fault)


_CALIBRATIONS: dict[State, str] = {"good": "good", "fair": "approximate", "look": "poor"}


def _calibration(head: Mapping[str, float]) -> Check:
    error = head["ece"]
    state: State = "good" if error <= _CALIBRATED else "fair" if error <= _APPROXIMATE else "look"
    use = {
        "good": "scores can be read as probabilities",
        "fair": "scores are approximate probabilities",
        "look": "use the scores for ranking, not as probabilities",
    }
    text = f"Calibration error of {100 * error:.1f} percentage points: {use[state]}."
    return _judged(_CALIBRATION, state, _CALIBRATIONS, text, "poor calibration")


def _segments(segments: Sequence[Mapping[str, Any]]) -> Check:
    flagged = [row for row in segments if row["flags"]]
    if not segments:
        return Check("segments", "fair", "none", "There is no categorical profile feature to compare by.")
    if not flagged:
        text = f"None of {len(segments)} segments differs significantly from the others."
        return Check("segments", "good", "even", text)
    first = "; ".join(f"{row['feature']} = {row['value']}: {', '.join(row['flags'])}" for row in flagged[:3])
    text = f"{len(flagged)} of {len(segments)} segments differ from the others: {first}."
    return Check("segments", "look", f"{len(flagged)} differ", text, "segments differ")


_STABILITIES: dict[State, str] = {"good": "stable", "fair": "small shift", "look": "shifted"}


def _stability(head: Mapping[str, float]) -> Check:
    psi = head["psi_valid_test"]
    state: State = "good" if psi < _STABLE else "fair" if psi < _SHIFTED else "look"
    text = f"Scores from validation to test: {_STABILITIES[state]} (PSI {psi:.3f})."
    return _judged("score stability", state, _STABILITIES, text, "scores shifted")


_SAMPLE_SIZES: dict[State, str] = {"good": "sufficient", "fair": "small", "look": "too small"}


def _sample_size(head: Mapping[str, float]) -> Check:
    rarer = int(min(head["positives"], head["rows"] - head["positives"]))
    state: State = "good" if rarer >= _SUFFICIENT_ROWS else "fair" if rarer >= _FEWEST_ROWS else "look"
    wide = "" if state == "good" else " The intervals are wide."
    return _judged(
        "sample size", state, _SAMPLE_SIZES, f"{rarer:,} test rows of the rarer label.{wide}", "few rows"
    )


def _up_to_date(warnings: Sequence[str]) -> Check:
    if warnings:
        return Check("up to date", "look", "no", " ".join(warnings), "out of date")
    return Check("up to date", "good", "yes", "The head was trained on the current labels and vectors.")


def statements(
    card: HeadCard, spec: ScenarioSpec, ceiling: float | None, tuning: TuningExplanation | None
) -> tuple[Statement, ...]:
    """The figures of a scenario in sentences, the most useful first.

    Args:
        card: card of the head.
        spec: the scenario, which says what label 1 means.
        ceiling: best reachable AUC, where known.
        tuning: attention and gain of the tuning; None where they were not computed.
    """
    head = card.metrics["head"]
    positive = "label 1" if spec.positive == "yes" else f"label 1 ({spec.positive})"
    best = f"; the best score in this simulated world gives {ceiling:.0%}" if ceiling is not None else ""
    tenth = next(campaign for campaign in campaigns(head) if campaign.share == 0.1)
    texts = [
        Statement(
            "Ranking",
            f"A user with {positive} scores higher than a user without it in {head['auc']:.0%} of pairs "
            f"(95% interval {head['auc_low']:.0%} to {head['auc_high']:.0%}). Random scores give 50%{best}.",
        ),
        Statement(
            "Campaign",
            f"The top 10% of the users by score hold {tenth.gain.value:.0%} of all positives "
            f"({tenth.gain.low:.0%} to {tenth.gain.high:.0%}), {tenth.lift.value:.1f} times as many as a "
            f"random 10%: of {tenth.users:,.0f} users contacted, {tenth.reached:,.0f} would be positive.",
        ),
        Statement("Calibration", _calibration(head).text),
        Statement("Baselines", _baselines(card.metrics)),
    ]
    texts += _on_tuning(tuning)
    if card.segments:
        texts.append(Statement("Segments", _segments(card.segments).text))
    return tuple(texts)


def _baselines(metrics: Mapping[str, Mapping[str, float]]) -> str:
    return " ".join(_against(metrics, scorer).text for scorer in _BASELINES if scorer in metrics)


def _on_tuning(tuning: TuningExplanation | None) -> list[Statement]:
    if tuning is None or tuning.gain is None:
        return []
    test = tuning.gain.test.difference
    verdict = {1: "a significant gain", -1: "a significant loss", 0: "no significant difference"}[test.sign]
    text = (
        f"Prompt tuning changed the linear probe's test AUC from {tuning.gain.base['auc']:.3f} to "
        f"{tuning.gain.tuned['auc']:.3f}: {verdict} ({test.low:+.3f} to {test.high:+.3f})."
    )
    moved = sorted((shift for shift in tuning.attention.modalities if shift.moved), key=_strength)[:2]
    if moved:
        changes = " and ".join(f"{abs(_relative(one)):.0%} {one.moved} to {one.name}" for one in moved)
        text += f" The tuned query attends {changes}."
    return [Statement("Tuning", text)]


def _relative(shift: ModalityShift) -> float:
    return shift.change.value if shift.change is not None else 0.0


def _strength(shift: ModalityShift) -> float:
    """Sorts by the change of the share, the largest first: a relative change favours small shares."""
    return -abs((shift.after or 0.0) - shift.before)


def headline(scenarios: Sequence["ScenarioSummary"]) -> tuple[Statement, ...]:
    """The whole report in a few sentences.

    Args:
        scenarios: scenarios of the report; at least one. A single one gives its own statements.
    """
    if len(scenarios) == 1:
        return scenarios[0].statements
    best, worst = (pick(scenarios, key=_auc) for pick in (max, min))
    ranking = (
        f"The scores rank users with an AUC of {_auc(worst):.3f} ({worst.name}) to {_auc(best):.3f} "
        f"({best.name}), on test rows whose labels were not used in training."
    )
    reached = [one.reached for one in scenarios if one.reached is not None]
    if reached:
        mean = sum(reached) / len(reached)
        ranking += f" On average that is {mean:.0%} of the gain over chance that this simulated world allows."
    lifts = [one.card.metrics["head"]["lift_10"] for one in scenarios]
    campaign = (
        f"The top 10% of the users by score hold {_range(lifts)} times as many positives as a random 10%."
    )
    texts = [Statement("Ranking", ranking), Statement("Campaigns", campaign)]
    texts.append(_against_baselines(scenarios))
    texts += _tuning_gains(scenarios)
    return (*texts, _calibrations(scenarios), _to_review(scenarios))


def _auc(one: "ScenarioSummary") -> float:
    return one.card.metrics["head"]["auc"]


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


def _count(scenarios: Sequence["ScenarioSummary"], name: str, state: State) -> str:
    """How many scenarios have a check in a state, such as "3 of 10"."""
    checks = [check for one in scenarios for check in one.checks if check.name == name]
    return f"{sum(check.state == state for check in checks)} of {len(scenarios)}"


def _against_baselines(scenarios: Sequence["ScenarioSummary"]) -> Statement:
    return Statement(
        "Baselines",
        f"The head is significantly better than the best head on aggregates in "
        f"{_count(scenarios, _AGGREGATES, 'good')} scenarios and significantly worse in "
        f"{_count(scenarios, _AGGREGATES, 'look')}; it is significantly worse than a logistic regression on "
        f"the embedding in {_count(scenarios, _PROBE, 'look')}.",
    )


def _tuning_gains(scenarios: Sequence["ScenarioSummary"]) -> list[Statement]:
    gains = [one.tuning.gain for one in scenarios if one.tuning and one.tuning.gain]
    if not gains:
        return []
    better = sum(gain.test.difference.sign > 0 for gain in gains)
    worse = sum(gain.test.difference.sign < 0 for gain in gains)
    mean = sum(gain.test.difference.value for gain in gains) / len(gains)
    return [
        Statement(
            "Tuning",
            f"Prompt tuning changes the linear probe's test AUC by {mean:+.3f} on average: a significant "
            f"gain in {better} of {len(gains)} scenarios, a significant loss in {worse}.",
        )
    ]


def _calibrations(scenarios: Sequence["ScenarioSummary"]) -> Statement:
    return Statement(
        "Calibration",
        f"Scores can be read as probabilities in {_count(scenarios, _CALIBRATION, 'good')} scenarios "
        f"(calibration error of at most 2 percentage points), approximately in "
        f"{_count(scenarios, _CALIBRATION, 'fair')}; elsewhere use them for ranking.",
    )


def _to_review(scenarios: Sequence["ScenarioSummary"]) -> Statement:
    faults = {one.name: [check.fault for check in one.checks if check.fault] for one in scenarios}
    texts = [f"{name} ({', '.join(some)})" for name, some in faults.items() if some]
    return Statement("To review", "; ".join(texts) + "." if texts else "No check needs a review.")
