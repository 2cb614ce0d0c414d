"""How a command group is made, the same for each."""

import typer


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
