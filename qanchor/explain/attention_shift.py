"""How prompt tuning moves a query's attention between modalities.

Source: arXiv 2602.14492, Fig. 7. Attention shows where the model reads, not how it uses what it reads.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qanchor.charts.chart import Axis, Chart, Series, Tick, rounded
from qanchor.metrics import Bootstrap, Interval
from qanchor.model.attention import PROMPT, QueryAttention

Floats = NDArray[np.float64]
_BAR_SHIFT = 0.19  # of a row's height, for two bars on one row


@dataclass(frozen=True)
class ModalityShift:
    """One modality's share of the attention on the history.

    Args:
        name: name of the modality, or the user token.
        before: share of the query alone, over all layers, heads and users.
        after: share of the query with its soft prompt; None where the scenario is untuned.
        change: after / before - 1, with its 95% interval over users; None where untuned or before is 0.
        layers: share in each layer after tuning, or before where untuned.
    """

    name: str
    before: float
    after: float | None
    change: Interval | None
    layers: tuple[float, ...]

    @property
    def moved(self) -> str:
        """`more`, `less`, or empty where the interval includes 0 or what is left of it is rounding."""
        return {1: "more", -1: "less", 0: ""}[self.change.sign if self.change else 0]


@dataclass(frozen=True)
class AttentionShift:
    """The attention of a scenario's query before and after tuning.

    Args:
        users: number of users whose histories were read.
        history: share of all attention that goes to the history, before and, where tuned, after.
        prompt: share that goes to the soft prompt; None where untuned.
        modalities: the history's parts, in the order of the workspace.
    """

    users: int
    history: tuple[float, float | None]
    prompt: float | None
    modalities: tuple[ModalityShift, ...]


def attention_shift(base: QueryAttention, tuned: QueryAttention | None) -> AttentionShift:
    """Compare the attention before and after tuning on the same users.

    Users are resampled in pairs: the same ones before and after.

    Args:
        base: attention of the query alone.
        tuned: attention of the query with its soft prompt; None where untuned.
    """
    names = base.groups[: base.groups.index(PROMPT)]
    before = _by_user(base, len(names))
    after = None if tuned is None else _by_user(tuned, len(names))
    changes = [None] * len(names) if after is None else _changes(before, after)
    by_layer = (tuned or base).mass[..., : len(names)].mean(axis=1)  # [layers, groups]
    layers = by_layer / by_layer.sum(axis=1, keepdims=True)
    shares = _shares(before).tolist()
    tuned_shares = [None] * len(names) if after is None else _shares(after).tolist()
    modalities = tuple(
        ModalityShift(
            name, shares[group], tuned_shares[group], changes[group], tuple(layers[:, group].tolist())
        )
        for group, name in enumerate(names)
        if shares[group] > 0  # a model without a user token has no attention on it
    )
    prompt = None if tuned is None else float(tuned.mass[..., tuned.groups.index(PROMPT)].mean())
    total = None if after is None else float(after.sum(axis=1).mean())
    return AttentionShift(len(before), (float(before.sum(axis=1).mean()), total), prompt, modalities)


def _by_user(attention: QueryAttention, groups: int) -> Floats:
    """Mass on the history's groups, mean over layers, [users, groups]."""
    return np.asarray(attention.mass[..., :groups].mean(axis=0))


def _shares(mass: Floats) -> Floats:
    total = mass.sum(axis=0)
    return np.asarray(total / total.sum())


def _changes(before: Floats, after: Floats) -> list[Interval | None]:
    """Relative change of each share with its bootstrap interval; None where a share was 0."""
    options = Bootstrap()
    random = np.random.default_rng(options.seed)
    rows = random.integers(0, len(before), (options.draws, len(before)))
    # How often each user is drawn; a resample's sums are then one product.
    counts = np.stack([np.bincount(row, minlength=len(before)) for row in rows]).astype(np.float64)
    old, new = counts @ before, counts @ after
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (new / new.sum(axis=1, keepdims=True)) / (old / old.sum(axis=1, keepdims=True)) - 1
        values = _shares(after) / _shares(before) - 1
    tail = (1 - options.confidence) / 2
    changes: list[Interval | None] = []
    for value, drawn in zip(values, ratios.T, strict=True):
        if not np.isfinite(drawn).all():
            changes.append(None)
            continue
        low, high = np.quantile(drawn, (tail, 1 - tail))
        changes.append(Interval(float(value), float(low), float(high)))
    return changes


def attention_chart(shift: AttentionShift) -> Chart:
    """Attention on the history by modality, before and after tuning."""
    rows = [float(row) for row in range(len(shift.modalities), 0, -1)]
    before = np.array([one.before for one in shift.modalities])
    after = np.array([one.after for one in shift.modalities if one.after is not None])
    if shift.prompt is None:
        texts = [f"{share:.0%}" for share in before]
        series = [Series("untuned", "base", "bars", rounded(before), rows, words=texts)]
    else:
        upper, lower = ([row + side * _BAR_SHIFT for row in rows] for side in (1, -1))
        # Adding 0 turns a rounded -0 into 0.
        texts = [f"{round(one.change.value, 2) + 0.0:+.0%}" if one.change else "" for one in shift.modalities]
        series = [
            Series("before tuning", "base", "bars", rounded(before), upper),
            Series("after tuning", "head", "bars", rounded(after), lower, words=texts),
        ]
    names = tuple(Tick(row, one.name) for row, one in zip(rows, shift.modalities, strict=True))
    return Chart(
        "attention",
        "Attention by modality",
        f"Attention of the query on the history: mean over layers, heads and {shift.users} test users.",
        Axis("share of the attention on the history", 0, 1.28 * float(max([*before, *after])), True),
        Axis("", 0.4, len(rows) + 0.6, ticks=names),
        tuple(series),
    )
