"""One search of the `audience` commands: opened once, asked, and explained."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli.audience.audience_options import find_notes

if TYPE_CHECKING:
    from qanchor.audience.candidates import CandidateRules
    from qanchor.audience.describe import Words
    from qanchor.audience.lookalike import LookalikeRequest, Lookalikes
    from qanchor.audience.methods import MethodOrAuto
    from qanchor.audience.population import Population
    from qanchor.audience.scorers import Scorer
    from qanchor.site import Site


@dataclass(frozen=True)
class SearchResult:
    """What was asked and what was found."""

    request: "LookalikeRequest"
    words: "Words | None"
    found: "Lookalikes"

    @property
    def scorer(self) -> "Scorer | None":
        """Of the words alone."""
        return None if self.words is None else self.words.scorer


@dataclass(frozen=True)
class Search:
    """A population, and what it takes to search it."""

    site: "Site"
    population: "Population"

    @classmethod
    def open(cls, site: "Site", scenario: str, out: Path | None = None) -> "Search":
        """Open a scenario's index; refuse an output file that could not be written first."""
        from qanchor.audience.population import open_population
        from qanchor.user_files import check_result_file

        if out is not None:
            check_result_file(out)
        return cls(site, open_population(site, scenario))

    def request(
        self,
        seeds: Path | None,
        k: int | None,
        method: "MethodOrAuto",
        threshold: float | None,
        rules: "CandidateRules",
        words_weight: float,
    ) -> "LookalikeRequest":
        """What a command's options ask for."""
        from qanchor.audience.lookalike import LookalikeRequest
        from qanchor.user_files import read_user_list

        given = [] if seeds is None else read_user_list(seeds, "seed")
        return LookalikeRequest(given, k, method, threshold, rules, words_weight)

    def find(self, request: "LookalikeRequest", text: str | None) -> SearchResult:
        """Search for seeds, words or both."""
        from qanchor.audience.describe import read_words
        from qanchor.audience.lookalike import find_lookalikes
        from qanchor.errors import SeedsInvalid

        if not request.seeds and text is None:
            raise SeedsInvalid("there are neither seeds nor words", "Give --seeds, --text or both.")
        words = None if text is None else read_words(self.site, self.population, text)
        found = find_lookalikes(self.population, request, words.scorer if words else None)
        return SearchResult(request, words, found)

    def notes(self, result: SearchResult) -> list[str]:
        """What has to be known of the list."""
        notes = find_notes(result.found, self.population, result.request)
        words = result.words
        if words is not None and not words.matched:
            notes.append(
                "no word of the text occurs in the events: it was embedded as a whole, which tells little"
            )
        if words is not None and words.is_tuned:
            notes.append("the users were read with a soft prompt, which no words were aligned with")
        return notes
