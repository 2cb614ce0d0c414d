"""How a scenario's prompt was tuned: the validation area by step, and by the number of prompt tokens.

Read from the records of its tunings; what was not recorded is absent. Source: arXiv 2602.14492, Fig. 8.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, select

from qanchor.charts.chart import Axis, Chart, Series
from qanchor.registry.session import transaction
from qanchor.registry.tables import PromptVersion


@dataclass(frozen=True)
class TuningCurves:
    """What the records of a scenario's tunings say.

    Args:
        metrics: of the tuning in service; empty where untuned.
        steps: the validation area by step; None where it was not recorded.
        tokens: the validation area by prompt tokens; None with fewer than two numbers of them.
        missing: what is absent and how to get it, in words.
    """

    metrics: Mapping[str, Any]
    steps: Chart | None
    tokens: Chart | None
    missing: tuple[str, ...]

    @property
    def charts(self) -> tuple[Chart, ...]:
        """Those that there are."""
        return tuple(chart for chart in (self.steps, self.tokens) if chart is not None)


def tuning_curves(engine: Engine, scenario: str, prompt_version: str | None) -> TuningCurves:
    """The curves of a scenario's prompt.

    Args:
        engine: the registry.
        scenario: its name.
        prompt_version: of the prompt in service; None where untuned.
    """
    with transaction(engine) as session:
        active = session.get(PromptVersion, prompt_version) if prompt_version else None
        if active is None:
            told = (
                f"The scenario is untuned: run `qanchor-cli tune --scenario {scenario}`, then the backfill."
            )
            return TuningCurves({}, None, None, (told,))
        query = select(PromptVersion).where(
            PromptVersion.scenario == scenario, PromptVersion.model_version == active.model_version
        )
        others = list(session.scalars(query.order_by(PromptVersion.created_at)))
    steps = step_chart(active.metrics)
    # Of several tunings with the same number of tokens the last one counts.
    areas = {
        int(one.metrics["tokens"]): float(one.metrics["valid_auc_tuned_probe"])
        for one in others
        if "tokens" in one.metrics and one.metrics.get("valid_auc_tuned_probe") is not None
    }
    tokens = token_chart(areas, active.metrics.get("tokens"))
    missing = []
    if steps is None:
        missing.append(
            "The validation area by step was not recorded: this prompt was tuned by an earlier version."
        )
    if tokens is None:
        missing.append(
            f"The area by prompt tokens needs tunings with other numbers of them: "
            f"`qanchor-cli tune --scenario {scenario} --tokens 2`, last with the number to keep."
        )
    return TuningCurves(dict(active.metrics), steps, tokens, tuple(missing))


def step_chart(metrics: Mapping[str, Any]) -> Chart | None:
    """The validation area at each look; None where it was not recorded."""
    course = metrics.get("valid_auc_by_step")
    if not course or len(course) < 2:
        return None
    steps, areas = ([float(point[axis]) for point in course] for axis in (0, 1))
    best = float(metrics["best_step"])
    return Chart(
        "tuning_steps",
        "Tuning by step",
        f"Validation area of the prototypes; step {best:.0f} was kept.",
        Axis("step", 0, max(steps)),
        _around(areas),
        (
            Series("", "head", "line", steps, areas),
            Series("AUC, validation part", "head", "dots", steps, areas),
        ),
        ((best, "kept"),),
    )


def token_chart(areas: Mapping[int, float], kept: int | None) -> Chart | None:
    """The validation area of a linear probe by prompt tokens; None with fewer than two numbers of them.

    Args:
        areas: by number of tokens.
        kept: the number in service.
    """
    if len(areas) < 2:
        return None
    tokens = sorted(areas)
    x, y = [float(number) for number in tokens], [areas[number] for number in tokens]
    rules = ((float(kept), "in service"),) if kept is not None and kept in areas else ()
    return Chart(
        "tuning_tokens",
        "Tuning by prompt tokens",
        "Validation area of a linear probe on the tuned embedding, one tuning for each number of tokens.",
        Axis("prompt tokens", 0, max(x) * 1.05, ticks=tuple((place, f"{place:.0f}") for place in x)),
        _around(y),
        (Series("", "probe", "line", x, y), Series("AUC, validation part", "probe", "dots", x, y)),
        rules,
    )


def _around(areas: Sequence[float]) -> Axis:
    """An axis that shows differences of a hundredth and does not magnify smaller ones."""
    middle, reach = (max(areas) + min(areas)) / 2, max(max(areas) - min(areas), 0.02) * 0.7
    return Axis("AUC", max(0.0, middle - reach), min(1.0, middle + reach))
