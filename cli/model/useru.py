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

app = command_group("useru", "Build sets of pre-training pairs; look at them.")
_HORIZONS = "7,30,60,90"


@app.command()
def build(
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="New folder; default: in QANCHOR_HOME/useru, by time."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="DATE",
            help="Read events before this moment, UTC; default: the first cut-off of labels to be tested.",
        ),
    ] = None,
    users: Annotated[
        int | None, typer.Option("--users", min=1, help="Users, drawn by chance; default: all.")
    ] = None,
    cutoffs: Annotated[int, typer.Option("--cutoffs", min=1, help="Most cut-offs of a user.")] = 3,
    step_days: Annotated[int, typer.Option("--step-days", min=1, help="Days between them.")] = 15,
    horizons: Annotated[
        str, typer.Option("--horizons", metavar="DAYS,...", help="Futures that are told.")
    ] = _HORIZONS,
    topics: Annotated[
        int,
        typer.Option("--topics", min=0, max=72, help="Most relevant topics of a user that are asked about."),
    ] = 10,
    topic_file: Annotated[
        Path | None,
        typer.Option("--topic-file", metavar="FILE", help="YAML with topics of your own and their words."),
    ] = None,
    writer: Annotated[
        str, typer.Option("--writer", help="Of the answers: grounded (no model) or llm.")
    ] = "grounded",
    url: Annotated[
        str, typer.Option("--url", help="llm: an OpenAI-compatible endpoint; default: QANCHOR_LLM__URL.")
    ] = "",
    model: Annotated[
        str, typer.Option("--model", help="llm: the model's name there; default: QANCHOR_LLM__MODEL.")
    ] = "",
    model_path: Annotated[
        Path | None, typer.Option("--model-path", metavar="FOLDER", help="llm: a transformers model on disk.")
    ] = None,
    reply_tokens: Annotated[int, typer.Option("--reply-tokens", min=16, help="llm: longest reply.")] = 500,
    most_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="llm: stop before more are spent in all.")
    ] = None,
    most_cost: Annotated[
        float | None, typer.Option("--max-cost", min=0, help="llm: stop before more money is spent.")
    ] = None,
    prompt_price: Annotated[
        float, typer.Option("--price-prompt", min=0, help="llm: of a million tokens read.")
    ] = 0.0,
    reply_price: Annotated[
        float, typer.Option("--price-reply", min=0, help="llm: of a million tokens written.")
    ] = 0.0,
    parallel: Annotated[
        int, typer.Option("--parallel", min=1, max=256, help="llm: answers asked for at a time.")
    ] = 4,
    revisions: Annotated[
        int, typer.Option("--revisions", min=0, max=5, help="llm: times a faulty answer goes back to it.")
    ] = 1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed, same events: same pairs.")] = 0,
    json: JsonOption = False,
) -> None:
    """Build a set of question-answer pairs from the event log; no labels are read.

    What users did after a cut-off is told in numbers; what their profile before it says about the topics
    that matter to them is written by the writer and checked against the profile, statement by statement.
    Users of a test split are left out. A language model is sent topics and facts, never a user id, and is
    not asked again for what it has answered: an interrupted build goes on where it was.

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
    from qanchor.training.useru.pool import read_topics
    from qanchor.training.useru.visible import visible_events

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
        Path | None, typer.Argument(metavar="[FOLDER]", help="Of a set; default: the newest.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=0, max=1000, help="Pairs shown.")] = 6,
    topic: Annotated[str, typer.Option("--topic", help="Only samples of this topic or modality.")] = "",
    user: Annotated[str, typer.Option("--user", help="Only samples about this user.")] = "",
    dropped: Annotated[
        bool, typer.Option("--dropped", help="Sample what reflection has dropped, and why.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Statistics of a set, and some of its pairs with the facts that they rest on.

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
