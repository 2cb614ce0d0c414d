"""What every `head` command needs: the feature repository, home, registry and workspace in one."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import Context

if TYPE_CHECKING:
    from qanchor.heads.train import Surroundings

OneScenario = Annotated[str, typer.Option("--scenario", metavar="NAME", help="A scenario with a head.")]


def surroundings(context: Context) -> "Surroundings":
    """What heads read and write, for this process."""
    from qanchor.heads.train import Surroundings
    from qanchor.storage.features import FeatureRepository

    source = FeatureRepository(context.workspace, context.home)
    return Surroundings(source, context.home, context.engine, context.workspace)
