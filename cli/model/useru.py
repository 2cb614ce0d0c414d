"""`qanchor-cli useru`: sets of pre-training pairs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.groups import command_group, with_options
from cli.model.options import UntilOption
from cli.model.useru_show import Samples, show_set
from cli.model.useru_writer import WriterOptions
from cli.output import JsonOption
from cli.stages import progress
from qanchor.errors import InputError, NotReady
from qanchor.site import Site

if TYPE_CHECKING:
    from qanchor.training.useru.survey import BuildConfig

app = command_group("useru", "Build and show UserU pre-training pairs: questions and answers.")
_HORIZONS = "7,30,60,90"


@dataclass(frozen=True, kw_only=True)
class SetOptions:
    """Contents of a set."""

    until: UntilOption = None
    users: Annotated[int | None, typer.Option(min=1, help="Number of users, sampled; default: all.")] = None
    cutoffs: Annotated[int, typer.Option(min=1, help="Maximum number of cut-offs per user.")] = 3
    step_days: Annotated[int, typer.Option(min=1, help="Days between the cut-offs of a user.")] = 15
    horizons: Annotated[
        str, typer.Option(metavar="DAYS,...", help="Lengths in days of the futures in questions.")
    ] = _HORIZONS
    topics: Annotated[
        int, typer.Option(min=0, max=72, help="Number of topics per user, most relevant first.")
    ] = 10
    topic_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="YAML file of topics with their words; default: 72 topics."),
    ] = None
    seed: Annotated[int, typer.Option(min=0, help="Seed; the same seed and events give the same pairs.")] = 0

    def config(self, writer: WriterOptions) -> "BuildConfig":
        """The size of the set and the work of its writer.

        Raises:
            InputError: the horizons are not numbers of days.
        """
        from qanchor.training.useru.survey import BuildConfig

        return BuildConfig(
            users=self.users,
            cutoffs=self.cutoffs,
            step_days=self.step_days,
            horizons_days=_days(self.horizons),
            topics=self.topics,
            revisions=writer.revisions,
            parallel=writer.parallel if writer.writer == "llm" else 1,
            seed=self.seed,
        )


@app.command()
@with_options(SetOptions)
@with_options(WriterOptions)
def build(
    options: SetOptions,
    writer: WriterOptions,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="New folder; default: named by time, in QANCHOR_HOME/useru."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build a set of question-answer pairs from the event log.

    No labels are read, and users of a test split are left out. Answers about events after a cut-off state
    numbers; answers about the user profile before it are written by the writer and checked against the
    profile, statement by statement. A language model receives topics and facts, never a user id. The same
    command continues an interrupted build without repeating requests.

    Example: qanchor-cli useru build --users 1000 --out pairs
    """
    from qanchor.times import now, read_moment
    from qanchor.training.useru.build import BuildRequest, Job, build_from_log
    from qanchor.training.useru.pool import read_topics
    from qanchor.training.useru.store import check_new_folder

    config = options.config(writer)
    site = Site.open()
    folder = out or site.home.useru / f"{now():%Y%m%dT%H%M%S}"
    check_new_folder(folder)
    listed = read_topics(options.topic_file)
    answer_writer, budget = writer.choose(site)
    until = None if options.until is None else read_moment(options.until, "--until")
    request = BuildRequest(Job(answer_writer, listed, folder, budget), config, until)
    with progress() as bar:
        build_from_log(site, request, bar)
    show_set(folder, Samples(samples=0), as_json=as_json)


@app.command()
@with_options(Samples)
def show(
    samples: Samples,
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Folder of a set; default: the newest set.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show statistics of a set, and sampled pairs with their facts.

    Example: qanchor-cli useru show pairs --topic "coffee and tea"
    """
    show_set(folder or _newest(), samples, as_json=as_json)


def _newest() -> Path:
    sets = sorted(path.parent for path in Site.open().home.useru.glob("*/useru.json"))
    if not sets:
        raise NotReady("no set of pairs is built yet", "Run `qanchor-cli useru build`, or name a folder.")
    return sets[-1]


def _days(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and 0 < int(part) <= 3650 for part in parts):
        raise InputError(f"--horizons {text!r} is not a list of days", f"Write them like {_HORIZONS}.")
    return tuple(int(part) for part in parts)
