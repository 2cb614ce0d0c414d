"""What a scenario's figures say in plain words, and the checks that a reader would make first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from qanchor.explain.anchor import AnchorFindings
from qanchor.explain.attention_shift import ModalityShift
from qanchor.heads.card import HeadCard
from qanchor.report.decisions import campaigns
from qanchor.workspace import ScenarioSpec

State = Literal["good", "fair", "look"]
# The error below which a score may be read as a chance, and the one beyond which it only orders users.
_HONEST, _ROUGH = 0.02, 0.05
# Customary bounds of the population stability index.
_STEADY, _MOVED = 0.1, 0.25
_MANY, _FEW = 100, 30


@dataclass(frozen=True)
class Check:
    """One thing a reader would ask first.

    Args:
        name: what is asked.
        state: how it stands: nothing to do, not clear, or to be looked at.
        word: the same in a word or two.
        told: why, in words.
        fault: what is wrong, in a phrase; empty unless it is to be looked at.
    """

    name: str
    state: State
    word: str
    told: str
    fault: str = ""


@dataclass(frozen=True)
class Statement:
    """One plain sentence or two, with what they are about.

    Args:
        about: a word or two.
        text: the sentences.
    """

    about: str
    text: str


def check(card: HeadCard, warnings: Sequence[str]) -> tuple[Check, ...]:
    """The checks of a head, from its card.

    Args:
        card: of the head.
        warnings: what has changed since it was trained.
    """
    return (
        _against(card.metrics, "aggregates"),
        _against(card.metrics, "probe"),
        _calibration(card.metrics["head"]),
        _segments(card.segments),
        _stability(card.metrics["head"]),
        _evidence(card.metrics["head"]),
        _age(warnings),
    )


def _judged(name: str, state: State, words: Mapping[State, str], told: str, fault: str) -> Check:
    return Check(name, state, words[state], told, fault if state == "look" else "")


# What a head is compared with: the check's name, the words in a sentence, and its fault.
_OTHERS = {
    "aggregates": ("against aggregates", "the best head on aggregates alone", "behind aggregates"),
    "probe": ("against a straight line", "a linear probe on the embedding", "behind a straight line"),
}
_STANDS: dict[State, str] = {"good": "ahead", "fair": "not clear", "look": "behind"}


def _against(metrics: Mapping[str, Mapping[str, float]], scorer: str) -> Check:
    (name, words, fault), other = _OTHERS[scorer], metrics.get(scorer, {})
    if "head_gain" not in other:
        return Check(name, "fair", "none", f"There is nothing to compare with: no {scorer} were fitted.")
    state: State = "good" if other["head_gain_low"] > 0 else "look" if other["head_gain_high"] < 0 else "fair"
    verdict = {"good": "Clearly ahead of", "fair": "No clear difference from", "look": "Clearly behind"}[
        state
    ]
    low, high = other["head_gain_low"], other["head_gain_high"]
    gap = f"{other['head_gain']:+.3f} AUC ({low:+.3f} to {high:+.3f})"
    return _judged(name, state, _STANDS, f"{verdict} {words}: {gap}.", fault)


_HONESTY: dict[State, str] = {"good": "honest", "fair": "rough", "look": "off"}


def _calibration(head: Mapping[str, float]) -> Check:
    error = head["ece"]
    state: State = "good" if error <= _HONEST else "fair" if error <= _ROUGH else "look"
    means = {
        "good": "scores can be read as chances",
        "fair": "scores are rough chances",
        "look": "use the scores for order, not as chances",
    }
    told = f"Off by {100 * error:.1f} points on average: {means[state]}."
    return _judged("chances", state, _HONESTY, told, "chances off")


def _segments(segments: Sequence[Mapping[str, Any]]) -> Check:
    flagged = [row for row in segments if row["flags"]]
    if not segments:
        return Check("segments", "fair", "none", "There is no categorical profile feature to compare by.")
    if not flagged:
        told = f"None of {len(segments)} segments fares clearly differently."
        return Check("segments", "good", "even", told)
    first = "; ".join(f"{row['feature']} = {row['value']}: {', '.join(row['flags'])}" for row in flagged[:3])
    told = f"{len(flagged)} of {len(segments)} segments stand out: {first}."
    return Check("segments", "look", f"{len(flagged)} stand out", told, "segments differ")


_STEADINESS: dict[State, str] = {"good": "steady", "fair": "moved a little", "look": "moved"}


def _stability(head: Mapping[str, float]) -> Check:
    moved = head["psi_valid_test"]
    state: State = "good" if moved < _STEADY else "fair" if moved < _MOVED else "look"
    told = f"Scores from validation to test: {_STEADINESS[state]} (PSI {moved:.3f})."
    return _judged("scores over time", state, _STEADINESS, told, "scores moved")


_ENOUGH: dict[State, str] = {"good": "enough", "fair": "thin", "look": "too little"}


def _evidence(head: Mapping[str, float]) -> Check:
    ones = int(min(head["positives"], head["rows"] - head["positives"]))
    state: State = "good" if ones >= _MANY else "fair" if ones >= _FEW else "look"
    wide = "" if state == "good" else " Mind the intervals: they are wide."
    return _judged("evidence", state, _ENOUGH, f"{ones:,} test rows of the rarer label.{wide}", "few rows")


def _age(warnings: Sequence[str]) -> Check:
    if warnings:
        return Check("up to date", "look", "no", " ".join(warnings), "out of date")
    return Check("up to date", "good", "yes", "Labels and vectors are those that it was trained on.")


def statements(
    card: HeadCard, spec: ScenarioSpec, ceiling: float | None, anchor: AnchorFindings | None
) -> tuple[Statement, ...]:
    """The figures of a scenario in plain words, the most useful first.

    Args:
        card: of its head.
        spec: names what label 1 means.
        ceiling: best reachable area, where known.
        anchor: what was found of its anchor; None where nothing was looked at.
    """
    head = card.metrics["head"]
    meant = "label 1" if spec.positive == "yes" else f"label 1 ({spec.positive})"
    best = f"; the best that this simulated world allows gives {ceiling:.0%}" if ceiling is not None else ""
    tenth = next(one for one in campaigns(head) if one.share == 0.1)
    said = [
        Statement(
            "Ranking",
            f"Of two users, one with {meant} and one without, the score puts the right one first in "
            f"{head['auc']:.0%} of cases (95% interval {head['auc_low']:.0%} to {head['auc_high']:.0%}). "
            f"Chance gives 50%{best}.",
        ),
        Statement(
            "Campaign",
            f"The best-scored tenth of the users holds {tenth.gain.value:.0%} of all with label 1 "
            f"({tenth.gain.low:.0%} to {tenth.gain.high:.0%}), {tenth.lift.value:.1f} times as many as a "
            f"random tenth: of {tenth.users:,.0f} users contacted {tenth.reached:,.0f} would be right.",
        ),
        Statement("Chances", _calibration(head).told),
        Statement("Simpler ways", _simpler(card.metrics)),
    ]
    said += _on_tuning(anchor)
    if card.segments:
        said.append(Statement("Segments", _segments(card.segments).told))
    return tuple(said)


def _simpler(metrics: Mapping[str, Mapping[str, float]]) -> str:
    return " ".join(_against(metrics, scorer).told for scorer in _OTHERS if scorer in metrics)


def _on_tuning(anchor: AnchorFindings | None) -> list[Statement]:
    if anchor is None or anchor.gain is None:
        return []
    test = anchor.gain.test.difference
    verdict = "better" if test.low > 0 else "worse" if test.high < 0 else "no clear difference"
    text = (
        f"Tuning took a linear probe's test AUC from {anchor.gain.base['auc']:.3f} to "
        f"{anchor.gain.tuned['auc']:.3f}: {verdict} ({test.low:+.3f} to {test.high:+.3f})."
    )
    moved = sorted((one for one in anchor.attention.modalities if one.moved), key=_strength)[:2]
    if moved:
        looks = " and ".join(f"{abs(_relative(one)):.0%} {one.moved} at {one.name}" for one in moved)
        text += f" Tuned, the anchor looks {looks}."
    return [Statement("Tuning", text)]


def _relative(one: ModalityShift) -> float:
    return one.change.value if one.change is not None else 0.0


def _strength(one: ModalityShift) -> float:
    """The largest move of attention first: in shares, not in parts of a small one."""
    return -abs((one.after or 0.0) - one.before)
