"""How `--help` reads: N, TEXT, DIR for values, examples that can be pasted, arguments without braces."""

import inspect
import textwrap
from datetime import datetime
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

_METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH", datetime: "DATE"}
# Of an example: 80 less the indent and a continuation's backslash.
_WIDTH = 75


def plain_help(command: Any) -> Any:
    """The same Click command, or group with its commands, with plain help pages."""
    for each in getattr(command, "commands", {}).values():
        plain_help(each)
    command.help = "\n\n".join(map(_paragraph, (command.help or "").split("\n\n")))
    signature = inspect.signature(command.callback).parameters if command.callback else {}
    for parameter in command.params:
        is_argument = parameter.param_type_name == "argument"
        if parameter.metavar is None and parameter.name in signature:
            parameter.metavar = _metavar(signature[parameter.name].annotation, is_argument)
        if is_argument:
            _show_plainly(parameter)
    return command


def _paragraph(text: str) -> str:
    """An example keeps its line breaks, each of which a shell takes for a continuation."""
    if not text.startswith("Example:"):
        return text
    lines = textwrap.wrap(
        " ".join(text.split()),
        _WIDTH - 2,
        subsequent_indent="    ",
        break_on_hyphens=False,
        break_long_words=False,
    )
    return "\b\n" + " \\\n".join(lines)


def _metavar(annotation: object, is_argument: bool) -> str | None:
    kind = _value_type(annotation)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "|".join(str(each.value) for each in kind)
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    return None if is_argument else _METAVARS.get(kind)


def _value_type(annotation: object) -> Any:
    """int of Annotated[list[int] | None, ...]."""
    origin = get_origin(annotation)
    if origin in (Annotated, list):
        return _value_type(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return _value_type(next(each for each in get_args(annotation) if each is not type(None)))
    return annotation


def _show_plainly(argument: Any) -> None:
    """DIR, [DIR], FILE...: without braces, and without the type of Python."""
    name = argument.metavar or argument.name.upper()
    argument.metavar = name
    dots = "" if argument.nargs == 1 else "..."
    usage = f"{name}{dots}" if argument.required else f"[{name}{dots}]"
    record = argument.get_help_record
    vars(argument).update(
        get_usage_pieces=lambda _: [usage],
        get_help_record=lambda context: (name, record(context)[1]),
    )
