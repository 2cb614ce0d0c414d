"""The writer options of `useru build`, and the writer that they and the settings describe."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qanchor.errors import InputError

if TYPE_CHECKING:
    from qanchor.site import Site
    from qanchor.training.useru.chat import Chat
    from qanchor.training.useru.llm_writer import Budget
    from qanchor.training.useru.writer import Writer


@dataclass(frozen=True, kw_only=True)
class WriterOptions:
    """Writer of the answers and limits of its model."""

    writer: Annotated[
        str, typer.Option(metavar="grounded|llm", help="Writer of the answers; grounded needs no model.")
    ] = "grounded"
    url: Annotated[
        str, typer.Option(metavar="URL", help="llm: OpenAI-compatible endpoint; default: QANCHOR_LLM__URL.")
    ] = ""
    model: Annotated[
        str, typer.Option(metavar="NAME", help="llm: model of that endpoint; default: QANCHOR_LLM__MODEL.")
    ] = ""
    model_path: Annotated[
        Path | None, typer.Option(metavar="DIR", help="llm: transformers model on disk.")
    ] = None
    reply_tokens: Annotated[int, typer.Option(min=16, help="llm: maximum number of tokens of a reply.")] = 500
    most_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="llm: maximum number of tokens in total.")
    ] = None
    most_cost: Annotated[
        float | None, typer.Option("--max-cost", min=0, help="llm: maximum cost in total.")
    ] = None
    prompt_price: Annotated[
        float, typer.Option("--price-prompt", min=0, help="llm: price of a million prompt tokens.")
    ] = 0.0
    reply_price: Annotated[
        float, typer.Option("--price-reply", min=0, help="llm: price of a million reply tokens.")
    ] = 0.0
    parallel: Annotated[int, typer.Option(min=1, max=256, help="llm: number of concurrent requests.")] = 4
    revisions: Annotated[
        int, typer.Option(min=0, max=5, help="llm: number of times that a faulty answer is revised.")
    ] = 1

    def choose(self, site: "Site") -> "tuple[Writer, Budget | None]":
        """The writer, and its spending cap.

        Raises:
            InputError: the options contradict each other, or the model does not exist.
        """
        from qanchor.training.useru.writer import GroundedWriter

        if self.writer == "grounded":
            if self.url or self.model or self.model_path:
                raise InputError(
                    "the grounded writer uses no model", "Add --writer llm, or leave the model out."
                )
            return GroundedWriter(), None
        if self.writer != "llm":
            raise InputError(f"--writer {self.writer!r} is unknown", "Use grounded or llm.")
        if self.most_cost is not None and not self.prompt_price + self.reply_price:
            raise InputError(
                "--max-cost without prices limits nothing",
                "Give --price-prompt and --price-reply, or --max-tokens.",
            )
        from qanchor.training.useru.llm_writer import Budget, LlmOptions, LlmWriter, Prices, ReplyCache

        budget = Budget(Prices(self.prompt_price, self.reply_price), self.most_tokens, self.most_cost)
        cache = ReplyCache(site.home.useru / "replies")
        return LlmWriter(self._chat(site), cache, budget, LlmOptions(self.reply_tokens)), budget

    def _chat(self, site: "Site") -> "Chat":
        from qanchor.training.useru.chat import Endpoint, HttpChat, LocalChat

        if self.model_path is not None:
            if self.url or self.model:
                raise InputError(
                    "a model on disk and a model at an endpoint exclude each other", "Name one of them."
                )
            from qanchor.model.runtime import choose_runtime

            compute = site.settings.compute
            runtime = choose_runtime(compute.device, compute.precision)
            return LocalChat(self.model_path, str(runtime.device))
        llm = site.settings.llm
        url, model = self.url or llm.url, self.model or llm.model
        if not url or not model:
            raise InputError(
                "no language model is named",
                "Give --url and --model (or QANCHOR_LLM__URL and QANCHOR_LLM__MODEL), or --model-path DIR.",
            )
        key = llm.api_key.get_secret_value()
        return HttpChat(Endpoint(url, model, key, llm.timeout_seconds, llm.attempts))
