"""`qanchor-cli`: every command in one table; every QAnchorError becomes one line and an exit code here."""

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from cli.help_pages import plain_help
from cli.output import warn_of_old_name
from qanchor.errors import QAnchorError
from qanchor.threads import calm_threads

# command or group -> (module, summary). The module is imported when the command is used:
# a module offers `app` (a typer.Typer with its subcommands) or `run` (a single command).
COMMANDS: dict[str, tuple[str, str]] = {
    "new": ("cli.operate.new", "Create a feature repository."),
    "demo": ("cli.operate.demo", "Run the whole chain on a simulated world or on your data."),
    "simulate": ("cli.data.simulate", "Simulate a world: events, labels and the best reachable AUC."),
    "events": ("cli.data.events", "Load events, compact the event log, show what it holds."),
    "labels": ("cli.data.labels", "Load the labels of scenarios."),
    "broker": ("cli.data.broker", "Run the embedded Kafka broker (development only)."),
    "produce": ("cli.data.produce", "Send a file of events to Kafka."),
    "consume": ("cli.data.consume", "Stream events from Kafka into the event log."),
    "deadletters": ("cli.data.deadletters", "List rejected messages, and send them again."),
    "pretrain": ("cli.model.pretrain", "Pre-train a Q-Anchor on the event log."),
    "useru": ("cli.model.useru", "Build and show UserU pre-training pairs: questions and answers."),
    "tune": ("cli.model.tune", "Tune the soft prompts of scenarios with their labels."),
    "backfill": ("cli.embedding.backfill", "Write embeddings to the offline and online stores."),
    "refresh": ("cli.embedding.refresh", "Embed again the users whose history has changed."),
    "promote": ("cli.embedding.promote", "Put waiting embeddings in service."),
    "manifests": ("cli.embedding.manifests", "List the stored embeddings and their quality gates."),
    "rollback": ("cli.embedding.rollback", "Put the previous embeddings back in service."),
    "verify": ("cli.embedding.verify", "Compare the vectors of all stores, and repair them."),
    "jobs": ("cli.operate.jobs", "List, show and cancel jobs."),
    "index": ("cli.audience.index", "Build, update and show FAISS indexes."),
    "lookalike": ("cli.audience.lookalike", "Find the users most like a list of seed users."),
    "audience": ("cli.audience.audience", "Search, judge, save and combine audiences."),
    "head": ("cli.heads.head", "Train, compare and explain LightGBM heads; score users."),
    "scenarios": ("cli.evaluate.scenarios", "List scenarios; show what their queries attend to."),
    "zero-label": ("cli.heads.zero_label", "Score users by a scenario's answers, without labels."),
    "experiment": ("cli.evaluate.experiment", "Plan, assign, analyse and simulate experiments."),
    "report": ("cli.evaluate.report", "Write the report of all scenarios."),
    "monitor": ("cli.operate.monitor", "Check drift, calibration and freshness; raise alarms."),
    "status": ("cli.operate.status", "Show what is loaded, trained, written and served."),
    "doctor": ("cli.operate.doctor", "Check the machine and the workspace."),
    "db": ("cli.operate.db", "Show and upgrade the registry's database schema."),
}

# Names that work until 0.2: (module, new name).
_OLD_NAMES = {"explain": ("cli.evaluate.explain", "scenarios explain")}

_INTERRUPTED = 130


class _LazyGroup(TyperGroup):
    """Commands that are imported when they are used, so that --help stays instant."""

    listing = False

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        # The names are what a misspelt command is compared with.
        self.commands = {name: TyperCommand(name, help=summary) for name, (_, summary) in COMMANDS.items()}

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  # Click's signature
        # Click wants the list only to print it; the summaries are here, the modules are not needed.
        self.listing = True
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in _OLD_NAMES:
            module_name, new_name = _OLD_NAMES[cmd_name]
            warn_of_old_name(cmd_name, new_name)
        elif self.listing or cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        else:
            module_name, _ = COMMANDS[cmd_name]
        command = typer.main.get_command(_typer_of(importlib.import_module(module_name)))
        command.name = cmd_name
        return plain_help(command)


def _typer_of(module: ModuleType) -> typer.Typer:
    if hasattr(module, "app"):
        group: typer.Typer = module.app
        return group
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command()(module.run)
    return single


app = typer.Typer(
    cls=_LazyGroup,
    name="qanchor-cli",
    help="One embedding per user and business scenario: Kafka in; Feast, FAISS and LightGBM out.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _print_version(is_requested: bool) -> None:
    if is_requested:
        from qanchor import __version__

        print(f"qanchor {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and exit."),
    ] = False,
) -> None:
    """One embedding per user and business scenario: Kafka in; Feast, FAISS and LightGBM out."""


def _fail(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _store_errors() -> tuple[type[Exception], ...]:
    """Errors of a disk or a database; only a library that a command has imported can have raised one."""
    names = (("sqlalchemy.exc", "OperationalError"), ("duckdb", "Error"))
    return (OSError, *(getattr(sys.modules[module], name) for module, name in names if module in sys.modules))


def _fail_by_store(error: Exception, arguments: Sequence[str]) -> int:
    """One line for a file, disk or database that cannot be used."""
    if not isinstance(error, OSError):
        cause = str(getattr(error, "orig", None) or error).split("LINE 1:")[0]
        return _fail(
            f"a store cannot be used: {cause.rstrip()}. Check that it is there, whole and can be written,"
            " and that no field of modalities.yaml changed its type.",
            4,
        )
    if error.errno == errno.ENOSPC:
        return _fail(
            "no space left on the device. Free some and run it again: nothing half-written counts", 4
        )
    if error.filename is None:
        return _fail(f"{error.strerror or error}. Check the disk and the network, and run it again.", 4)
    path = Path(os.fsdecode(error.filename))
    problem = f"{path} cannot be used: {error.strerror}"
    named = [Path(text.partition("=")[2] if text.startswith("-") else text) for text in arguments if text]
    if any(each.name and path.absolute().is_relative_to(each.absolute()) for each in named):
        return _fail(f"{problem}. Check the path that you gave, and its permissions.", 2)
    return _fail(f"{problem}. Check its permissions and its disk, or set QANCHOR_HOME to another folder.", 4)


def _fail_by_usage(error: Any) -> int:
    """Click's own two lines, which name the option and the help to read."""
    names = getattr(error, "possibilities", None)
    if names:
        error.message += f". Did you mean {' or '.join(sorted(names))}?"
        error.possibilities = None
    error.show()
    return int(getattr(error, "exit_code", 2))


def run_command(arguments: list[str] | None = None) -> int:
    """Run one command line and return how it ended.

    Args:
        arguments: without the program's name; default: those of the process.

    Returns:
        The exit code: 0, 2 for wrong input or usage, 3 for a step that has to come first,
        4 for a store that does not answer, 130 after an interrupt.
    """
    calm_threads()
    command: Any = typer.main.get_command(app)
    try:
        code = int(command.main(args=arguments, prog_name="qanchor-cli", standalone_mode=False) or 0)
    except QAnchorError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except typer.TyperException as error:
        return _fail_by_usage(error)
    except BrokenPipeError:
        # Whoever read the output has gone, as `head` does; Python would report it again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except _store_errors() as error:
        return _fail_by_store(error, sys.argv[1:] if arguments is None else arguments)
    # Typer turns Ctrl-C into its exit code, and prints nothing.
    if code == _INTERRUPTED:
        return _fail("interrupted; run the same command again to go on", code)
    return code


def main() -> None:
    """Entry point of `qanchor-cli`."""
    sys.exit(run_command())
