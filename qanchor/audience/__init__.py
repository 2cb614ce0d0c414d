"""Indexes, lookalikes and audiences in words: search, quality, saved audiences."""

from qanchor.audience.algebra import combine, compare
from qanchor.audience.candidates import CandidateRules, Candidates
from qanchor.audience.describe import Words, read_words
from qanchor.audience.lift import Quality, measure_overlap, measure_quality
from qanchor.audience.lookalike import LookalikeRequest, Lookalikes, find_lookalikes
from qanchor.audience.population import Population, open_population
from qanchor.audience.profile import Profile, profile_audience, profile_mentions
from qanchor.audience.saved import Replay, read_members, replay, save_audience

__all__ = [
    "CandidateRules",
    "Candidates",
    "LookalikeRequest",
    "Lookalikes",
    "Population",
    "Profile",
    "Quality",
    "Replay",
    "Words",
    "combine",
    "compare",
    "find_lookalikes",
    "measure_overlap",
    "measure_quality",
    "open_population",
    "profile_audience",
    "profile_mentions",
    "read_members",
    "read_words",
    "replay",
    "save_audience",
]
