"""What every `head` command shares."""

from typing import Annotated

import typer

OneScenario = Annotated[
    str, typer.Option("--scenario", metavar="NAME", help="Name of a scenario with a head.")
]
