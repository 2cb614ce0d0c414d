"""The options of every command that searches users."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.scenarios import ScenarioOption

if TYPE_CHECKING:
    from qanchor.audience.lookalike import LookalikeRequest

Method = Literal["auto", "centroid", "centroids", "nearest", "classifier"]


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of a search; a command offers all of them or some."""

    scenario: ScenarioOption
    seeds: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Seed users: text file with one user_id a line, or CSV or Parquet with user_id.",
        ),
    ] = None
    text: Annotated[
        str | None, typer.Option(metavar="WORDS", help="Audience described in words.", show_default=False)
    ] = None
    text_weight: Annotated[
        float, typer.Option(help="Weight of the words against the seeds, between 0 and 1.")
    ] = 0.5
    k: Annotated[
        int | None,
        typer.Option(
            "--k", "-k", min=1, metavar="N", help="Number of users; default: 100.", show_default=False
        ),
    ] = None
    threshold: Annotated[
        float | None, typer.Option(metavar="T", help="Every user of at least this score.", show_default=False)
    ] = None
    method: Annotated[
        Method,
        typer.Option(
            help="centroid: like the seeds as a whole; centroids: like one of several groups of them; "
            "nearest: near several of them; classifier: what sets them apart from others; "
            "auto: the one that finds most held-out seeds."
        ),
    ] = "auto"
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help="Condition on profile and activity features.")
    ] = None
    exclude: Annotated[Path | None, typer.Option(metavar="FILE", help="File of users to exclude.")] = None
    include_seeds: Annotated[
        bool, typer.Option("--include-seeds/--exclude-seeds", help="Whether the result may hold seeds.")
    ] = False
    include_eventless: Annotated[
        bool,
        typer.Option(
            "--include-eventless/--exclude-eventless",
            help="Whether the result may hold users without events.",
        ),
    ] = False

    def request(self) -> "LookalikeRequest":
        """The search that the options describe, with the files of users read.

        Raises:
            UserListInvalid: a file cannot be read or names no user.
            SeedsInvalid: there are neither seeds nor words.
        """
        from qanchor.audience.candidates import CandidateRules
        from qanchor.audience.lookalike import LookalikeRequest
        from qanchor.errors import SeedsInvalid
        from qanchor.user_files import read_user_list

        if self.seeds is None and self.text is None:
            raise SeedsInvalid("there are neither seeds nor words", "Give --seeds, --text or both.")
        excluded = [] if self.exclude is None else read_user_list(self.exclude, "exclusion")
        seeds = [] if self.seeds is None else read_user_list(self.seeds, "seed")
        rules = CandidateRules(self.where, excluded, self.include_seeds, self.include_eventless)
        return LookalikeRequest(seeds, self.k, self.method, self.threshold, rules, self.text_weight)
