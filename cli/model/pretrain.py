"""`qanchor-cli pretrain`: a Q-Anchor from the event log."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.output import JsonOption, print_json, print_table
from cli.stages import recorded_progress
from qanchor.site import Site

if TYPE_CHECKING:
    from datetime import datetime

    from qanchor.registry.tables import ModelVersion


def run(
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="DATE",
            help="Read events before this moment, UTC; default: the first cut-off of test labels.",
        ),
    ] = None,
    preset: Annotated[
        str, typer.Option("--preset", metavar="tiny|small|paper", help="Size of the model.")
    ] = "tiny",
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Number of optimiser steps; default: the preset's.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes", min=0.1, metavar="MINUTES", help="Train for this long, after the pairs are made."
        ),
    ] = None,
    points: Annotated[
        int | None,
        typer.Option(
            "--points",
            min=2,
            help="Points (a user at a cut-off) in a batch of all processes; default: the preset's.",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", min=0.0, help="Peak learning rate; default: the preset's."),
    ] = None,
    event_dropout: Annotated[
        float | None,
        typer.Option(
            "--event-dropout",
            min=0.0,
            max=0.99,
            help="Share of a history's events hidden in a step; default: the preset's.",
        ),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--form", metavar="paper|code", help="Contrastive loss of the paper's text, or of its code."
        ),
    ] = "paper",
    backbone: Annotated[
        str, typer.Option("--backbone", metavar="DIR", help="Folder or name of a stored decoder.")
    ] = "",
    text_encoder: Annotated[
        str, typer.Option("--text-encoder", metavar="DIR", help="Folder or name of a stored text encoder.")
    ] = "",
    text_pooling: Annotated[
        str,
        typer.Option(
            "--text-pooling", metavar="cls|mean", help="How a text's vector is read from its encoder."
        ),
    ] = "cls",
    grad_cache: Annotated[
        int | None,
        typer.Option(
            "--grad-cache", min=0, help="Points computed at a time: less memory, same result; 0: all."
        ),
    ] = None,
    checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--gradient-checkpointing/--no-gradient-checkpointing",
            help="Compute activations twice instead of storing them: less memory, same result.",
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            "--pairs", metavar="DIR", help="Set of pairs from `useru build`; default: made on the fly."
        ),
    ] = None,
    widths: Annotated[
        str | None,
        typer.Option(
            "--widths",
            metavar="N,N",
            help="Shorter widths at which a vector can be used as well, such as 32,64.",
        ),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Store the adapters merged into the weights.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard scalars to QANCHOR_HOME/tensorboard.")
    ] = False,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed; with one thread the same seed gives the same model.")
    ] = 0,
    json: JsonOption = False,
) -> None:
    """Pre-train a Q-Anchor on question-answer pairs made from the event log.

    No labels are read, and users of a test split are left out. The same command continues an interrupted
    run. On a machine with several GPUs: torchrun --nproc-per-node 8 -m cli pretrain ...

    Example: qanchor-cli pretrain --until 2026-06-30 --minutes 3
    """
    asked = {
        "steps": steps,
        "minutes": minutes,
        "points": points,
        "learning_rate": learning_rate,
        "event_dropout": event_dropout,
        "form": _one_of("--form", form, ("paper", "code")),
        "backbone": backbone,
        "text_encoder": text_encoder,
        "text_pooling": _one_of("--text-pooling", text_pooling, ("cls", "mean")),
        "grad_cache": grad_cache,
        "checkpointing": checkpointing,
        "pairs": str(pairs.resolve()) if pairs else None,
        "widths": _widths(widths) if widths is not None else None,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    model = _pretrain(until, {"preset": preset, "seed": seed, **given}, merge, tensorboard)
    if model is not None:
        _print(model, json)


def _pretrain(
    until: str | None, asked: "dict[str, Any]", merge: bool, tensorboard: bool
) -> "ModelVersion | None":
    """The recorded model; None in all processes of a run but the first."""
    from dataclasses import replace

    from qanchor.events.history import load_event_arrays
    from qanchor.events.labels import earliest_cutoff, holdout_users
    from qanchor.model.runtime import choose_runtime
    from qanchor.progress import Silent
    from qanchor.storage.event_log import EventLog
    from qanchor.training.distributed import join_ranks
    from qanchor.training.pretrain import Visible, pretrain
    from qanchor.training.pretrain_config import settings_of
    from qanchor.training.record import choose_until, record_model

    site = Site.open()
    home = site.home
    config = settings_of(**asked)
    end = choose_until(_moment(until), earliest_cutoff(home))
    arrays = load_event_arrays(EventLog(home.events, site.workspace), site.workspace, before=end)
    compute = site.settings.compute
    runtime = choose_runtime(compute.device, compute.precision)
    scalars = home.root / "tensorboard" if tensorboard else None
    with join_ranks(runtime.device) as (ranks, device):
        limits = Visible(end, holdout_users(home), home.cache / "pretrain", scalars, ranks)
        runtime = replace(runtime, device=device)
        if not ranks.is_first:
            pretrain(arrays, site.workspace, config, limits, Silent(), runtime)
            return None
        with recorded_progress(site, "pretrain", {"until": f"{end:%Y-%m-%dT%H:%M:%S}", **asked}) as job:
            result = pretrain(arrays, site.workspace, config, limits, job, runtime)
            model = record_model(result, config, home, site.engine, merge)
            job.made.append(f"model {model.version}")
        result.state.discard()
        return model


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


def _moment(text: str | None) -> "datetime | None":
    from datetime import UTC, datetime

    from qanchor.errors import InputError

    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"--until {text!r} is no date", "Write it like 2026-11-01.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _print(model: "ModelVersion", json: bool) -> None:
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
    if json:
        print_json({"version": model.version, "path": model.path, "metrics": metrics})
        return
    print_table(f"pre-trained {model.preset} model", [row])
