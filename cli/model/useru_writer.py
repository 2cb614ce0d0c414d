"""Which writer a build of pairs asks, from its options and the settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qanchor.errors import InputError

if TYPE_CHECKING:
    from qanchor.site import Site
    from qanchor.training.useru.chat import Chat
    from qanchor.training.useru.llm_writer import Budget
    from qanchor.training.useru.writer import Writer


@dataclass(frozen=True)
class WriterOptions:
    """The options of `useru build` that are about its writer.

    Args:
        writer: grounded or llm.
        url: of an endpoint; empty: as the settings say.
        model: its name there; likewise.
        model_path: folder of a model on disk; None: an endpoint is asked.
        reply_tokens: longest reply.
        most_tokens: that may be spent; None: no limit.
        most_cost: likewise, money.
        prompt_price: of a million tokens read.
        reply_price: of a million tokens written.
    """

    writer: str
    url: str
    model: str
    model_path: Path | None
    reply_tokens: int
    most_tokens: int | None
    most_cost: float | None
    prompt_price: float
    reply_price: float


def choose_writer(site: "Site", options: WriterOptions) -> "tuple[Writer, Budget | None]":
    """The writer, and what it may spend.

    Raises:
        InputError: options that do not go together, or a model that is not there.
    """
    from qanchor.training.useru.writer import GroundedWriter

    if options.writer == "grounded":
        if options.url or options.model or options.model_path:
            raise InputError("the grounded writer asks no model", "Add --writer llm, or leave the model out.")
        return GroundedWriter(), None
    if options.writer != "llm":
        raise InputError(f"--writer {options.writer!r} is unknown", "Use grounded or llm.")
    if options.most_cost is not None and not options.prompt_price + options.reply_price:
        raise InputError(
            "--max-cost without prices limits nothing",
            "Give --price-prompt and --price-reply, or --max-tokens.",
        )
    from qanchor.training.useru.llm_writer import Budget, LlmOptions, LlmWriter, Prices, ReplyCache

    prices = Prices(options.prompt_price, options.reply_price)
    budget = Budget(prices, options.most_tokens, options.most_cost)
    cache = ReplyCache(site.home.useru / "replies")
    writer = LlmWriter(_chat(site, options), cache, budget, LlmOptions(options.reply_tokens))
    return writer, budget


def _chat(site: "Site", options: WriterOptions) -> "Chat":
    if options.model_path is not None:
        if options.url or options.model:
            raise InputError("both a model on disk and one at an endpoint are named", "Name one of them.")
        from qanchor.model.runtime import choose_runtime
        from qanchor.training.useru.chat import LocalChat

        compute = site.settings.compute
        runtime = choose_runtime(compute.device, compute.precision)
        return LocalChat(options.model_path, str(runtime.device))
    from qanchor.training.useru.chat import Endpoint, HttpChat

    llm = site.settings.llm
    url, model = options.url or llm.url, options.model or llm.model
    if not url or not model:
        raise InputError(
            "no language model is named",
            "Give --url and --model (or QANCHOR_LLM__URL and QANCHOR_LLM__MODEL), or --model-path FOLDER.",
        )
    return HttpChat(Endpoint(url, model, llm.api_key.get_secret_value(), llm.timeout_seconds, llm.attempts))
