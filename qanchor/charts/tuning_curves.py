"""How a scenario's prompt was tuned: validation AUC by step, and by number of prompt tokens.

Read from the metrics of its prompt versions. Source: arXiv 2602.14492, Fig. 8.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from qanchor.charts.chart import Axis, Chart, Series, Tick
from qanchor.registry.session import transaction
from qanchor.registry.tables import PromptVersion
from qanchor.site import Site


@dataclass(frozen=True)
class TuningCurves:
    """The recorded metrics of a scenario's tunings.

    Args:
        metrics: metrics of the prompt in service; empty where untuned.
        steps: validation AUC by step; None where it was not recorded.
        tokens: validation AUC by prompt tokens; None with fewer than two numbers of them.
        missing: reason and remedy for each absent chart.
    """

    metrics: Mapping[str, Any]
    steps: Chart | None
    tokens: Chart | None
    missing: tuple[str, ...]

    @property
    def charts(self) -> tuple[Chart, ...]:
        """The charts that could be made."""
        return tuple(chart for chart in (self.steps, self.tokens) if chart is not None)


def tuning_curves(site: Site, scenario: str, prompt_version: str | None) -> TuningCurves:
    """The curves of a scenario's prompt.

    Args:
        site: registry.
        scenario: name of the scenario.
        prompt_version: version of the prompt in service; None where untuned.
    """
    with transaction(site.engine) as session:
        active = session.get(PromptVersion, prompt_version) if prompt_version else None
        if active is None:
            untuned = (
                f"The scenario is untuned: run `qanchor-cli tune --scenario {scenario}`, then the backfill."
            )
            return TuningCurves({}, None, None, (untuned,))
        query = select(PromptVersion).where(
            PromptVersion.scenario == scenario, PromptVersion.model_version == active.model_version
        )
        prompts = list(session.scalars(query.order_by(PromptVersion.created_at)))
    steps = step_chart(active.metrics)
    # Of several tunings with the same number of tokens the last one counts.
    areas = {
        int(prompt.metrics["tokens"]): float(prompt.metrics["valid_auc_tuned_probe"])
        for prompt in prompts
        if "tokens" in prompt.metrics and prompt.metrics.get("valid_auc_tuned_probe") is not None
    }
    tokens = token_chart(areas, active.metrics.get("tokens"))
    missing = []
    if steps is None:
        missing.append(
            "The validation AUC by step was not recorded: this prompt was tuned by an earlier version."
        )
    if tokens is None:
        missing.append(
            f"The AUC by number of prompt tokens needs tunings with other numbers: run "
            f"`qanchor-cli tune --scenario {scenario} --tokens 2`, and last the number to keep."
        )
    return TuningCurves(dict(active.metrics), steps, tokens, tuple(missing))


def step_chart(metrics: Mapping[str, Any]) -> Chart | None:
    """Validation AUC at each evaluation; None where it was not recorded."""
    evaluations = metrics.get("valid_auc_by_step")
    if not evaluations or len(evaluations) < 2:
        return None
    steps, areas = ([float(point[axis]) for point in evaluations] for axis in (0, 1))
    best = float(metrics["best_step"])
    return Chart(
        "tuning_steps",
        "Tuning by step",
        f"Validation AUC of the prototypes; step {best:.0f} was kept.",
        Axis("step", 0, max(steps)),
        _auc_axis(areas),
        (
            Series("", "head", "line", steps, areas),
            Series("validation AUC", "head", "dots", steps, areas),
        ),
        (Tick(best, "kept"),),
    )


def token_chart(areas: Mapping[int, float], kept: int | None) -> Chart | None:
    """Validation AUC of a linear probe by prompt tokens; None with fewer than two numbers of them.

    Args:
        areas: AUC by number of tokens.
        kept: number of tokens in service.
    """
    if len(areas) < 2:
        return None
    tokens = sorted(areas)
    x, y = [float(number) for number in tokens], [areas[number] for number in tokens]
    rules = (Tick(float(kept), "in service"),) if kept is not None and kept in areas else ()
    return Chart(
        "tuning_tokens",
        "Tuning by prompt tokens",
        "Validation AUC of a linear probe on the tuned embedding, one tuning for each number of tokens.",
        Axis("prompt tokens", 0, max(x) * 1.05, ticks=tuple(Tick(number, f"{number:.0f}") for number in x)),
        _auc_axis(y),
        (Series("", "probe", "line", x, y), Series("validation AUC", "probe", "dots", x, y)),
        rules,
    )


def _auc_axis(areas: Sequence[float]) -> Axis:
    """An axis that shows differences of a hundredth and does not magnify smaller ones."""
    middle, half = (max(areas) + min(areas)) / 2, max(max(areas) - min(areas), 0.02) * 0.7
    return Axis("AUC", max(0.0, middle - half), min(1.0, middle + half))
