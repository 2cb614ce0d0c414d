"""`qanchor-cli pretrain`: a Q-Anchor from the event log."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.context import open_context
from cli.output import JsonOption, print_json, print_table, progress

if TYPE_CHECKING:
    from datetime import datetime

    from qanchor.registry.tables import ModelVersion


def run(
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="DATE",
            help="Read events before this moment, UTC; default: the first cut-off of labels to be tested.",
        ),
    ] = None,
    preset: Annotated[str, typer.Option("--preset", help="tiny, small or paper.")] = "tiny",
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Optimiser steps; default: the preset's.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", min=0.1, help="Choose the steps so that training takes about so long."),
    ] = None,
    points: Annotated[
        int | None, typer.Option("--points", min=2, help="Users at a cut-off in a batch; default: 64.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed and one thread: same model.")] = 0,
    json: JsonOption = False,
) -> None:
    """Pre-train a Q-Anchor on question-answer pairs made from the event log; no labels are read.

    Users of a test split are left out. An interrupted run goes on where it was when the same command is
    given again.

    Example: qanchor-cli pretrain --until 2026-06-30 --minutes 3
    """
    import shutil
    from dataclasses import replace

    from qanchor.events.history import load_event_arrays
    from qanchor.events.labels import earliest_cutoff, holdout_users
    from qanchor.model.runtime import choose_runtime
    from qanchor.storage.event_log import EventLog
    from qanchor.training.pretrain import PretrainConfig, Visible, pretrain
    from qanchor.training.record import choose_until, record_model

    context = open_context()
    asked = {"steps": steps, "minutes": minutes, "points": points}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    config = replace(PretrainConfig(preset=preset, seed=seed), **given)
    end = choose_until(_moment(until), earliest_cutoff(context.home))
    arrays = load_event_arrays(
        EventLog(context.home.events, context.workspace), context.workspace, before=end
    )
    limits = Visible(end, holdout_users(context.home), context.home.cache / "pretrain")
    compute = context.settings.compute
    runtime = choose_runtime(compute.device, compute.precision)
    with progress() as bar:
        result = pretrain(arrays, context.workspace, config, limits, bar, runtime)
    model = record_model(result, config, context.home, context.engine)
    shutil.rmtree(context.home.cache / "pretrain", ignore_errors=True)
    _print(model, json)


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
        "seconds": metrics["seconds"],
    }
    if json:
        print_json({"version": model.version, "path": model.path, "metrics": metrics})
        return
    print_table(f"pre-trained {model.preset} model", [row])
