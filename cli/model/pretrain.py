"""`qanchor-cli pretrain`: a Q-Anchor from the event log."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.groups import with_options
from cli.model.options import UntilOption
from cli.output import JsonOption, print_json, print_table
from cli.stages import progress
from qanchor.site import Site

if TYPE_CHECKING:
    from qanchor.registry.tables import ModelVersion
    from qanchor.training.use_cases import PretrainRequest


@dataclass(frozen=True)
class PretrainOptions:
    """The options of `pretrain`; None stands for the preset's value."""

    until: UntilOption = None
    preset: Annotated[str, typer.Option(metavar="tiny|small|paper", help="Size of the model.")] = "tiny"
    steps: Annotated[
        int | None, typer.Option(min=1, help="Number of optimiser steps; default: the preset's.")
    ] = None
    minutes: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="MINUTES", help="Train for this long, after the pairs are made."),
    ] = None
    points: Annotated[
        int | None,
        typer.Option(
            min=2, help="Points (a user at a cut-off) in a batch of all processes; default: the preset's."
        ),
    ] = None
    learning_rate: Annotated[
        float | None, typer.Option(min=0.0, help="Peak learning rate; default: the preset's.")
    ] = None
    event_dropout: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=0.99, help="Share of a history's events hidden in a step; default: the preset's."
        ),
    ] = None
    form: Annotated[
        str, typer.Option(metavar="paper|code", help="Contrastive loss of the paper's text, or of its code.")
    ] = "paper"
    backbone: Annotated[str, typer.Option(metavar="DIR", help="Folder or name of a stored decoder.")] = ""
    text_encoder: Annotated[
        str, typer.Option(metavar="DIR", help="Folder or name of a stored text encoder.")
    ] = ""
    text_pooling: Annotated[
        str, typer.Option(metavar="cls|mean", help="How a text's vector is read from its encoder.")
    ] = "cls"
    grad_cache: Annotated[
        int | None, typer.Option(min=0, help="Points computed at a time: less memory, same result; 0: all.")
    ] = None
    checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--gradient-checkpointing/--no-gradient-checkpointing",
            help="Compute activations twice instead of storing them: less memory, same result.",
        ),
    ] = None
    pairs: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Set of pairs from `useru build`; default: made on the fly."),
    ] = None
    widths: Annotated[
        str | None,
        typer.Option(
            metavar="N,N", help="Shorter widths at which a vector can be used as well, such as 32,64."
        ),
    ] = None
    merge: Annotated[bool, typer.Option("--merge", help="Store the adapters merged into the weights.")] = (
        False
    )
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard scalars to QANCHOR_HOME/tensorboard.")
    ] = False
    seed: Annotated[
        int, typer.Option(min=0, help="Seed; with one thread the same seed gives the same model.")
    ] = 0

    def request(self) -> "PretrainRequest":
        """The run that the options describe.

        Raises:
            InputError: an option's value is invalid.
        """
        from qanchor.times import read_moment
        from qanchor.training.pretrain_config import settings_of
        from qanchor.training.use_cases import PretrainRequest

        changes: dict[str, Any] = {
            "seed": self.seed,
            "steps": self.steps,
            "minutes": self.minutes,
            "points": self.points,
            "learning_rate": self.learning_rate,
            "event_dropout": self.event_dropout,
            "form": _one_of("--form", self.form, ("paper", "code")),
            "backbone": self.backbone,
            "text_encoder": self.text_encoder,
            "text_pooling": _one_of("--text-pooling", self.text_pooling, ("cls", "mean")),
            "grad_cache": self.grad_cache,
            "checkpointing": self.checkpointing,
            "pairs": str(self.pairs.resolve()) if self.pairs else None,
            "widths": _widths(self.widths) if self.widths is not None else None,
        }
        changes = {name: value for name, value in changes.items() if value is not None}
        until = None if self.until is None else read_moment(self.until, "--until")
        return PretrainRequest(settings_of(self.preset, **changes), until, self.merge, self.tensorboard)


@with_options(PretrainOptions)
def run(options: PretrainOptions, as_json: JsonOption = False) -> None:
    """Pre-train a Q-Anchor on question-answer pairs made from the event log.

    No labels are read, and users of a test split are left out. The same command continues an interrupted
    run. On a machine with several GPUs: torchrun --nproc-per-node 8 -m cli pretrain ...

    Example: qanchor-cli pretrain --until 2026-06-30 --minutes 3
    """
    from qanchor.training.use_cases import pretrain

    request = options.request()
    with progress() as bar:
        model = pretrain(Site.open(), request, bar)
    if model is None:
        return
    if as_json:
        print_json({"version": model.version, "path": model.path, "metrics": model.metrics})
    else:
        _print_model(model)


def _widths(text: str) -> tuple[int, ...]:
    from qanchor.errors import InputError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"--widths {text!r} is no list of numbers", "Write it like 32,64.")
    return tuple(int(part) for part in parts)


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> str:
    from qanchor.errors import InputError

    if value not in allowed:
        raise InputError(f"{option} {value!r} is unknown", f"Use {' or '.join(allowed)}.")
    return value


def _print_model(model: "ModelVersion") -> None:
    metrics = model.metrics
    last = max(1, len(metrics["contrastive_loss"]) // 20)
    row = {
        "model": model.version,
        "until": f"{model.trained_until:%Y-%m-%d}",
        "users": metrics["users"],
        "pairs": metrics["pairs"],
        "steps": metrics["steps"],
        "contrastive": sum(metrics["contrastive_loss"][-last:]) / last,
        "next-token": sum(metrics["next_token_loss"][-last:]) / last,
        "retrieval@1": metrics["after"].get("retrieval_at_1"),
        **{
            f"@1 of {width}": metrics["after"].get(f"retrieval_at_1_width_{width}")
            for width in metrics["widths"][:-1]
        },
        "seconds": metrics["seconds"],
    }
    print_table(f"pre-trained {model.preset} model", [row])
