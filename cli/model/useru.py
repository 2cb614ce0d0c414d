"""`qanchor-cli useru`: build sets of pre-training pairs, and look at them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.groups import command_group
from cli.model.useru_show import show_set
from cli.model.useru_writer import WriterOptions, choose_writer
from cli.output import JsonOption
from cli.stages import progress
from qanchor.errors import InputError
from qanchor.site import Site

if TYPE_CHECKING:
    from qanchor.site import Site
    from qanchor.training.useru.build import BuildConfig
    from qanchor.training.useru.store import Manifest

app = command_group("useru", "Build and show sets of pre-training pairs (UserU).")
_HORIZONS = "7,30,60,90"


@app.command()
def build(
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="New folder; default: named by time, in QANCHOR_HOME/useru."
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="DATE",
            help="Read events before this moment, UTC; default: the first cut-off of test labels.",
        ),
    ] = None,
    users: Annotated[
        int | None, typer.Option("--users", min=1, help="Number of users, sampled; default: all.")
    ] = None,
    cutoffs: Annotated[
        int, typer.Option("--cutoffs", min=1, help="Maximum number of cut-offs per user.")
    ] = 3,
    step_days: Annotated[
        int, typer.Option("--step-days", min=1, help="Days between the cut-offs of a user.")
    ] = 15,
    horizons: Annotated[
        str,
        typer.Option("--horizons", metavar="DAYS,...", help="Lengths in days of the futures in questions."),
    ] = _HORIZONS,
    topics: Annotated[
        int,
        typer.Option("--topics", min=0, max=72, help="Number of topics per user, most relevant first."),
    ] = 10,
    topic_file: Annotated[
        Path | None,
        typer.Option("--topic-file", metavar="FILE", help="YAML file of further topics and their words."),
    ] = None,
    writer: Annotated[
        str,
        typer.Option(
            "--writer", metavar="grounded|llm", help="Writer of the answers; grounded needs no model."
        ),
    ] = "grounded",
    url: Annotated[
        str,
        typer.Option(
            "--url", metavar="URL", help="llm: OpenAI-compatible endpoint; default: QANCHOR_LLM__URL."
        ),
    ] = "",
    model: Annotated[
        str,
        typer.Option(
            "--model", metavar="NAME", help="llm: model of that endpoint; default: QANCHOR_LLM__MODEL."
        ),
    ] = "",
    model_path: Annotated[
        Path | None, typer.Option("--model-path", metavar="DIR", help="llm: transformers model on disk.")
    ] = None,
    reply_tokens: Annotated[
        int, typer.Option("--reply-tokens", min=16, help="llm: maximum number of tokens of a reply.")
    ] = 500,
    most_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="llm: maximum number of tokens in total.")
    ] = None,
    most_cost: Annotated[
        float | None, typer.Option("--max-cost", min=0, help="llm: maximum cost in total.")
    ] = None,
    prompt_price: Annotated[
        float, typer.Option("--price-prompt", min=0, help="llm: price of a million prompt tokens.")
    ] = 0.0,
    reply_price: Annotated[
        float, typer.Option("--price-reply", min=0, help="llm: price of a million reply tokens.")
    ] = 0.0,
    parallel: Annotated[
        int, typer.Option("--parallel", min=1, max=256, help="llm: number of concurrent requests.")
    ] = 4,
    revisions: Annotated[
        int,
        typer.Option(
            "--revisions", min=0, max=5, help="llm: number of times that a faulty answer is revised."
        ),
    ] = 1,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed; the same seed and events give the same pairs.")
    ] = 0,
    json: JsonOption = False,
) -> None:
    """Build a set of question-answer pairs from the event log.

    No labels are read, and users of a test split are left out. Answers about events after a cut-off state
    numbers; answers about the user profile before it are written by the writer and checked against the
    profile, statement by statement. A language model receives topics and facts, never a user id. The same
    command continues an interrupted build without repeating requests.

    Example: qanchor-cli useru build --users 1000 --out pairs
    """
    from qanchor.training.useru.build import BuildConfig

    chosen = WriterOptions(
        writer, url, model, model_path, reply_tokens, most_tokens, most_cost, prompt_price, reply_price
    )
    config = BuildConfig(
        users=users,
        cutoffs=cutoffs,
        step_days=step_days,
        horizons_days=_days(horizons),
        topics=topics,
        revisions=revisions,
        parallel=parallel if writer == "llm" else 1,
        seed=seed,
    )
    site = Site.open()
    folder = out if out is not None else site.home.useru / f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
    _build(site, config, chosen, (folder, topic_file, until))
    show_set(folder, 0, "", "", dropped=False, as_json=json)


def _build(
    site: "Site",
    config: "BuildConfig",
    chosen: WriterOptions,
    where: tuple[Path, Path | None, str | None],
) -> "Manifest":
    from qanchor.events.history import load_event_arrays, microseconds
    from qanchor.events.labels import earliest_cutoff, holdout_users
    from qanchor.storage.event_log import EventLog
    from qanchor.training.record import choose_until
    from qanchor.training.useru.build import Job, build_set
    from qanchor.training.useru.points import visible_events
    from qanchor.training.useru.pool import read_topics

    folder, topic_file, until = where
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists already", "Name a new folder, or remove that one first.")
    listed = read_topics(topic_file)
    writer, budget = choose_writer(site, chosen)
    end = choose_until(_moment(until), earliest_cutoff(site.home))
    arrays = load_event_arrays(EventLog(site.home.events, site.workspace), site.workspace, before=end)
    visible = visible_events(arrays, microseconds(end), holdout_users(site.home))
    job = Job(writer, listed, folder, budget)
    with progress() as bar:
        return build_set(visible, site.workspace, microseconds(end), config, job, bar)


@app.command()
def show(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Folder of a set; default: the newest set.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=0, max=1000, help="Number of pairs to show.")] = 6,
    topic: Annotated[str, typer.Option("--topic", help="Only pairs of this topic or modality.")] = "",
    user: Annotated[str, typer.Option("--user", metavar="USER_ID", help="Only pairs about this user.")] = "",
    dropped: Annotated[
        bool, typer.Option("--dropped", help="Show pairs that the checks have dropped, and why.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show statistics of a set, and sampled pairs with their facts.

    Example: qanchor-cli useru show pairs --topic "coffee and tea"
    """
    show_set(folder or _newest(), samples, topic, user, dropped=dropped, as_json=json)


def _newest() -> Path:
    from qanchor.errors import NotReady

    sets = sorted(path.parent for path in Site.open().home.useru.glob("*/useru.json"))
    if not sets:
        raise NotReady("no set of pairs is built yet", "Run `qanchor-cli useru build`, or name a folder.")
    return sets[-1]


def _days(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and 0 < int(part) <= 3650 for part in parts):
        raise InputError(f"--horizons {text!r} are no days", f"Write them like {_HORIZONS}.")
    return tuple(int(part) for part in parts)


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"--until {text!r} is no date", "Write it like 2026-11-01.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
