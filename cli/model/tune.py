"""`qanchor-cli tune`: soft prompts of scenarios."""

from typing import Annotated

import typer

from cli.output import JsonOption, print_json, print_table
from cli.scenarios import AllOption, ScenariosOption, chosen
from cli.stages import recorded_progress
from qanchor.site import Site

_WIDTH = "valid_auc_width_"


def run(
    scenario: ScenariosOption = None,
    every: AllOption = False,
    test_fold: Annotated[
        int | None, typer.Option("--test-fold", help="Test fold, which is not read; default: the highest.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Maximum number of optimiser steps; default: 500.")
    ] = None,
    tokens: Annotated[
        int, typer.Option("--tokens", min=1, max=64, help="Number of soft prompt vectors.")
    ] = 6,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed; with one thread the same seed gives the same prompt.")
    ] = 0,
    use: Annotated[
        str | None,
        typer.Option("--use", metavar="VERSION", help="Use this earlier prompt again instead of tuning one."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Tune the soft prompts of scenarios with their labels.

    The model does not change. Histories that scenarios share are encoded once. Labels of the test part are
    not read.

    Example: qanchor-cli tune --scenario takeout --scenario money
    """
    if use is not None:
        _use(scenario, every, use, json)
        return
    from dataclasses import replace

    from qanchor.events.history import load_event_arrays
    from qanchor.events.labels import read_labels
    from qanchor.model.checkpoint import load_model
    from qanchor.registry.versions import active_model
    from qanchor.storage.event_log import EventLog
    from qanchor.training.record import Tuning, record_prompt, tune_scenarios
    from qanchor.training.tune import TuneConfig

    site = Site.open()
    ready = [name for name in site.workspace.scenarios if (site.home.labels / f"{name}.parquet").exists()]
    names = chosen(site.workspace, scenario, every, ready or None)
    labels = [read_labels(site.home, name) for name in names]
    model = active_model(site.engine)
    loaded = load_model(
        site.home.root / model.path, site.settings.compute.device, site.settings.compute.precision
    )
    loaded.config.check_workspace(site.workspace)
    config = replace(TuneConfig(tokens=tokens, seed=seed), **({"steps": steps} if steps else {}))
    arrays = load_event_arrays(EventLog(site.home.events, site.workspace), site.workspace)
    parameters = {"scenarios": names, "tokens": tokens, "steps": config.steps, "seed": seed}
    with recorded_progress(site, "tune", parameters) as job:
        tuned = tune_scenarios(Tuning(loaded, site.workspace, config, test_fold), arrays, labels, job)
        prompts = [
            record_prompt(
                some.scenario,
                tuned[some.scenario],
                model,
                some.test_fold(test_fold),
                site.home,
                site.engine,
            )
            for some in labels
        ]
        job.made += [f"prompt {prompt.version} of {prompt.scenario}" for prompt in prompts]
    rows = []
    for prompt in prompts:
        metrics = prompt.metrics
        rows.append(
            {
                "scenario": prompt.scenario,
                "prompt": prompt.version,
                "train_rows": metrics["train_rows"],
                "base_probe": metrics["valid_auc_base_probe"],
                "tuned_probe": metrics["valid_auc_tuned_probe"],
                "prototypes": metrics["valid_auc_prototypes"],
                **{
                    f"width_{name.removeprefix(_WIDTH)}": value
                    for name, value in metrics.items()
                    if name.startswith(_WIDTH)
                },
                "best_step": metrics["best_step"],
                "seconds": metrics["seconds"],
            }
        )
    if json:
        print_json(rows)
        return
    print_table("tuned prompts (AUC on the validation part)", rows)


def _use(scenario: list[str] | None, every: bool, version: str, json: bool) -> None:
    from qanchor.errors import InputError
    from qanchor.registry.versions import find_active_model, use_prompt

    if every or len(scenario or ()) != 1:
        raise InputError("--use is about one scenario", "Give one --scenario NAME.")
    site = Site.open()
    name = chosen(site.workspace, scenario, every)[0]
    prompt = use_prompt(site.engine, name, version)
    model = find_active_model(site.engine)
    fits = model is not None and model.version == prompt.model_version
    row = {"scenario": name, "prompt": prompt.version, "model": prompt.model_version, "fits_model": fits}
    if json:
        print_json(row)
        return
    print_table("prompt in use", [row])
    if fits:
        typer.echo(f"note: `qanchor-cli backfill --scenario {name}` makes its vectors", err=True)
    else:
        typer.echo("note: it was tuned on another model than the one that serves, and is left out", err=True)
