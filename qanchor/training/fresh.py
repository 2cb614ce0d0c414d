"""Fresh weights whose size suits a narrow decoder."""

import torch
from torch import nn

_EMBEDDING_SPREAD = 0.05


def widen_fresh_weights(backbone: nn.Module, seed: int) -> None:
    """Draw a from-scratch decoder's weights anew, with a spread of 1 / sqrt(inputs).

    transformers draws every weight with a spread of 0.02, made for widths of thousands. At a width of 64 a
    layer then adds a hundredth of what it reads, the user's history hardly reaches `<|user_emb|>`, and the
    first hundred steps go by before anything is learned.

    Args:
        backbone: qanchor.model.backbone.Backbone without stored weights.
        seed: of the draw; the global generator is left as it was.
    """
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in backbone.named_parameters():
            if weight.dim() == 2:
                spread = _EMBEDDING_SPREAD if "embed" in name else weight.shape[1] ** -0.5
                weight.copy_(torch.randn(weight.shape, generator=chance) * spread)
