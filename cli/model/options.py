"""Options of several commands about models."""

from typing import Annotated

import typer

UntilOption = Annotated[
    str | None,
    typer.Option(
        "--until",
        metavar="DATE",
        help="Read events before this moment, UTC; default: the first cut-off of test labels.",
    ),
]
