"""A process that trains a tiny model, for tests that start several or kill one.

python -m tests.integration.training_worker gradients|run FOLDER
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from qanchor.events.history import arrays_from_table
from qanchor.model.runtime import Runtime
from qanchor.progress import Silent
from qanchor.training import pretrain as module
from qanchor.training.distributed import Ranks, join_ranks
from qanchor.training.objective import Losses, Objective
from qanchor.training.pretrain import Execution, PretrainConfig, PretrainResult, Visible, train_model
from qanchor.training.useru.pairs import UserUConfig
from tests.unit.training.worlds import UNTIL, tiny_config, tiny_events, tiny_trainee, tiny_workspace

USERU = UserUConfig(horizons_days=(7, 14), step_days=20, cell=4, questions=2, held_share=0.2)
CONFIG = PretrainConfig(steps=12, points=9, save_every=2, useru=USERU)
RANKS_STEPS = 4
CPU = Runtime(torch.device("cpu"), torch.float32)


class Slow(Silent):
    """Progress that leaves time to be killed in."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Wait after a step."""
        time.sleep(0.2 if note else 0.0)


def gradients(ranks: Ranks, sizes: Sequence[int]) -> dict[int, tuple[Losses, dict[str, Tensor]]]:
    """All processes' gradients of one batch in which users and answers occur more than once, by part size."""
    model, _, batch = tiny_trainee(USERU)
    # The first point's user stands in every process's share.
    users = batch.users.clone()
    users[-1] = users[4] = users[0]
    torch.manual_seed(1)
    reader = nn.Linear(model.config.embedding_width, batch.summaries.shape[2])
    named = [(n, p) for part in (model, reader) for n, p in part.named_parameters() if p.requires_grad]
    by_size = {}
    for size in sizes:
        config = replace(CONFIG, grad_cache=size)
        losses = Objective(model.train(), reader, config, CPU, ranks).backward(replace(batch, users=users), 0)
        ranks.sum_gradients([weight for _, weight in named])
        by_size[size] = losses, {name: w.grad.clone() for name, w in named if w.grad is not None}
        model.zero_grad(set_to_none=True)
        reader.zero_grad(set_to_none=True)
    return by_size


def run(execution: Execution, progress: Any = None, steps: int = CONFIG.steps) -> PretrainResult:
    """A whole run."""
    workspace = tiny_workspace()
    arrays = arrays_from_table(tiny_events(), workspace)
    config = replace(CONFIG, steps=steps)
    with patch.object(module, "preset_config", lambda _, workspace: tiny_config(workspace)):
        return train_model(arrays, workspace, config, Visible(UNTIL), progress or Silent(), execution)


def _main(what: str, folder: Path) -> None:
    torch.set_num_threads(1)
    if what == "run":
        run(Execution(run_dir=folder), Slow())
        return
    with join_ranks(torch.device("cpu")) as (ranks, _):
        by_size = gradients(ranks, (0, 2))
        result = run(Execution(ranks=ranks), steps=RANKS_STEPS)
        # Every process holds the same model at the end.
        weights = torch.cat([weight.detach().flatten() for weight in result.model.parameters()])
        differs = ranks.any(not torch.equal(weights, ranks.joined(weights * ranks.is_first, 0, len(weights))))
        if not ranks.is_first:
            return
    figures = {
        "count": ranks.count,
        "differs": differs,
        "losses": {size: losses.numbers() for size, (losses, _) in by_size.items()},
        "contrastive": result.metrics["contrastive_loss"],
    }
    for size, (_, tensors) in by_size.items():
        save_file(tensors, str(folder / f"gradients-{size}.safetensors"))
    (folder / "figures.json").write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
