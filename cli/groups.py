"""What commands are made of: a group, the same for each, and options that several commands share."""

import inspect
from collections.abc import Callable, Collection
from dataclasses import MISSING, fields
from functools import update_wrapper
from typing import Any, get_type_hints

import typer

_Command = Callable[..., None]


def command_group(name: str, summary: str) -> typer.Typer:
    """A group to add commands to: it shows its help without arguments, and has no markup of its own.

    Args:
        name: the word after `qanchor-cli`.
        summary: one sentence for `--help`.
    """
    group = typer.Typer(
        name=name, help=summary, no_args_is_help=True, add_completion=False, rich_markup_mode=None
    )
    # A callback keeps a group of one command a group.
    group.callback(help=summary)(_no_options)
    return group


def _no_options() -> None:
    pass


def with_options(
    options: type[Any], *, without: Collection[str] = (), required: Collection[str] = ()
) -> Callable[[_Command], _Command]:
    """Give a command an option for each field of a dataclass, in place of its parameter of that class.

    Args:
        options: dataclass with fields of Annotated option types.
        without: fields that this command does not offer; they keep their defaults.
        required: fields that this command insists on, whatever default they have.
    """
    hints = get_type_hints(options, include_extras=True)
    offered = [field for field in fields(options) if field.name not in without]
    expanded = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=hints[field.name],
            default=inspect.Parameter.empty
            if field.default is MISSING or field.name in required
            else field.default,
        )
        for field in offered
    ]

    def decorate(command: _Command) -> _Command:
        signature = inspect.signature(command, eval_str=True)
        bundle = next(each.name for each in signature.parameters.values() if each.annotation is options)

        def run(**values: object) -> None:
            chosen = options(**{field.name: values.pop(field.name) for field in offered})
            command(**values, **{bundle: chosen})

        update_wrapper(run, command)
        # Typer reads both; a wrapped function would show it the command's own.
        del run.__wrapped__  # type: ignore[attr-defined]
        parameters: list[inspect.Parameter] = []
        for each in signature.parameters.values():
            kept = each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            parameters += expanded if each.name == bundle else [kept]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate
