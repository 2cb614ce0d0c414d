"""`qanchor-cli tune`: soft prompts of scenarios."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.output import JsonOption, print_json, print_rows, print_table
from cli.scenarios import AllOption, ScenariosOption, chosen
from cli.stages import progress
from qanchor.site import Site

if TYPE_CHECKING:
    from qanchor.registry.tables import PromptVersion

_WIDTH = "valid_auc_width_"


def run(
    scenario: ScenariosOption = None,
    every: AllOption = False,
    test_fold: Annotated[
        int | None, typer.Option(help="Test fold, which is not read; default: the highest.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of optimiser steps; default: 500.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, max=64, help="Number of soft prompt vectors.")] = 6,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed; with one thread the same seed gives the same prompt.")
    ] = 0,
    use: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="Use this earlier prompt again instead of tuning one."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tune the soft prompts of scenarios with their labels.

    The model does not change. Histories that scenarios share are encoded once. Labels of the test part are
    not read.

    Example: qanchor-cli tune --scenario takeout --scenario money
    """
    if use is not None:
        _use(scenario, every, use, as_json)
        return
    from qanchor.training.tune import TuneConfig
    from qanchor.training.use_cases import TuneRequest, tune

    site = Site.open()
    labelled = [name for name in site.workspace.scenarios if (site.home.labels / f"{name}.parquet").exists()]
    names = chosen(site.workspace, scenario, every, labelled or None)
    config = TuneConfig(tokens=tokens, seed=seed, steps=steps or TuneConfig.steps)
    with progress() as bar:
        prompts = tune(site, TuneRequest(names, config, test_fold), bar)
    rows = [_row(prompt) for prompt in prompts]
    print_rows("tuned prompts (AUC on the validation part)", rows, as_json)


def _row(prompt: "PromptVersion") -> dict[str, Any]:
    metrics = prompt.metrics
    return {
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


def _use(scenario: list[str] | None, every: bool, version: str, as_json: bool) -> None:
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
    if as_json:
        print_json(row)
        return
    print_table("prompt in use", [row])
    if fits:
        typer.echo(f"note: `qanchor-cli backfill --scenario {name}` makes its vectors", err=True)
    else:
        typer.echo("note: it was tuned on another model than the one that serves, and is left out", err=True)
