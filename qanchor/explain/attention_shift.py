"""How tuning moves the anchor's attention between modalities.

Source: arXiv 2602.14492, Fig. 7. Attention says where the anchor looks, not what it makes of what it sees.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qanchor.metrics import Bootstrap, Interval
from qanchor.model.attention import PROMPT, QueryAttention

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ModalityShift:
    """One modality's part of the attention that goes to the history.

    Args:
        name: the modality, or the user token.
        before: share with the query alone, over all layers, heads and users.
        after: share with the soft prompt; None where the scenario is untuned.
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
        """`more`, `less`, or nothing where the interval holds no change."""
        if self.change is None or self.change.low <= 0 <= self.change.high:
            return ""
        return "more" if self.change.value > 0 else "less"


@dataclass(frozen=True)
class AttentionShift:
    """The attention of a scenario's anchor before and after tuning.

    Args:
        users: whose histories it was measured on.
        history: share of all attention that goes to the history, before and, where tuned, after.
        prompt: share that goes to the soft prompt; None where untuned.
        modalities: the history's parts, in the order of the workspace.
    """

    users: int
    history: tuple[float, float | None]
    prompt: float | None
    modalities: tuple[ModalityShift, ...]


def attention_shift(
    base: QueryAttention, tuned: QueryAttention | None, options: Bootstrap | None = None
) -> AttentionShift:
    """Compare the attention of two anchors over the same users.

    Users are resampled in pairs: the same ones before and after.

    Args:
        base: of the query alone.
        tuned: of the query with its soft prompt; None where untuned.
        options: draws, confidence and seed of the intervals.
    """
    names = base.groups[: base.groups.index(PROMPT)]
    before = _by_user(base, len(names))
    after = None if tuned is None else _by_user(tuned, len(names))
    drawn = _drawn_changes(before, after, options or Bootstrap())
    shown = (tuned or base).mass[..., : len(names)].mean(axis=1)  # [layers, groups]
    layers = shown / shown.sum(axis=1, keepdims=True)
    shares = _shares(before), None if after is None else _shares(after)
    modalities = tuple(
        ModalityShift(
            name,
            float(shares[0][place]),
            None if shares[1] is None else float(shares[1][place]),
            None if drawn is None else drawn[place],
            tuple(float(value) for value in layers[:, place]),
        )
        for place, name in enumerate(names)
        # A model without a user token has nothing to look at there.
        if shares[0][place] > 0
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


def _drawn_changes(before: Floats, after: Floats | None, options: Bootstrap) -> list[Interval | None] | None:
    if after is None:
        return None
    random = np.random.default_rng(options.seed)
    rows = random.integers(0, len(before), (options.draws, len(before)))
    # How often each user is drawn; a resample's sums are then one product.
    counts = np.stack([np.bincount(row, minlength=len(before)) for row in rows]).astype(np.float64)
    old, new = counts @ before, counts @ after
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (new / new.sum(axis=1, keepdims=True)) / (old / old.sum(axis=1, keepdims=True)) - 1
        values = _shares(after) / _shares(before) - 1
    tail = (1 - options.confidence) / 2
    found: list[Interval | None] = []
    for place, value in enumerate(values):
        if not np.isfinite(ratios[:, place]).all():
            found.append(None)
            continue
        low, high = np.quantile(ratios[:, place], (tail, 1 - tail))
        found.append(Interval(float(value), float(low), float(high)))
    return found
