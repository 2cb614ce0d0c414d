"""Initial weights from which training makes progress at once."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

_EMBEDDING_SPREAD = 0.05


def widen_fresh_weights(backbone: nn.Module, seed: int) -> None:
    """Draw a from-scratch decoder's weights again, with a spread of 1 / sqrt(inputs).

    transformers draws every weight with a spread of 0.02, made for widths of thousands. At a width of 64 a
    layer then adds a hundredth of its input, the user's history hardly reaches `<|user_emb|>`, and the first
    hundred steps bring no progress.

    Args:
        backbone: qanchor.model.backbone.Backbone without stored weights.
        seed: seed of the draw; the global generator is not touched.
    """
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in backbone.named_parameters():
            if weight.dim() == 2:
                spread = _EMBEDDING_SPREAD if "embed" in name else weight.shape[1] ** -0.5
                weight.copy_(torch.randn(weight.shape, generator=chance) * spread)


@torch.no_grad()
def whiten_projection(projection: nn.Sequential, forward: Callable[[], object]) -> None:
    """Initialise the shared head so that users' vectors point in all directions.

    A fresh decoder's hidden states differ by a few hundredths from one user to the next: unit vectors would
    all begin alike, and hundreds of steps would only pull them apart. The first layer is set to centre and
    whiten the hidden states of a few batches, and the last one to give a mean of zero.

    Args:
        projection: Linear, ReLU, Linear.
        forward: runs both towers on some batches, through the projection.
    """
    first, last = projection[0], projection[2]
    if not isinstance(first, nn.Linear) or not isinstance(last, nn.Linear):
        raise TypeError("the projection is not Linear, ReLU, Linear")
    towers = _inputs(first, forward)
    hidden = torch.cat([tower - tower.mean(0) for tower in towers])
    strength, axes = torch.linalg.eigh((hidden.T @ hidden / len(hidden)).double())
    floor = _WHITENING_FLOOR * strength.mean()
    whitening = (axes * (strength.clamp(min=0) + floor).rsqrt()) @ axes.T
    centre = torch.stack([tower.mean(0) for tower in towers]).mean(0).double()
    weight = (first.weight.double() / first.weight.double().std() * first.in_features**-0.5) @ whitening
    first.weight.copy_(weight)
    first.bias.copy_(-(weight @ centre))
    outputs = torch.cat([tower - tower.mean(0) for tower in _inputs(last, forward)])
    last.weight.mul_(1.0 / outputs.std().clamp(min=1e-6))
    means = torch.stack([tower.mean(0) for tower in _inputs(last, forward)]).mean(0)
    last.bias.copy_(-(last.weight @ means))


_WHITENING_FLOOR = 0.02


def _inputs(layer: nn.Linear, forward: Callable[[], object]) -> list[Tensor]:
    """The input of a layer, of anchors and of answers: [rows, width] each."""
    calls: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0].float()))
    forward()
    handle.remove()
    return [torch.cat(calls[tower::2]) for tower in (0, 1)]
