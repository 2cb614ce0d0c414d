"""`qanchor-cli lookalike`: users like a list of seeds."""

from cli.audience.options import SearchOptions
from cli.audience.search import run_search, show_search
from cli.groups import with_options
from cli.output import JsonOption
from cli.scenarios import OutOption


@with_options(SearchOptions, without=("text", "text_weight"), required=("seeds",))
def run(options: SearchOptions, out: OutOption = None, as_json: JsonOption = False) -> None:
    """Rank the users most like the seeds, in the scenario's space.

    Seeds that are unknown, without events or repeated are reported. The meaning of score depends on the
    method; distance is 1 - cosine to the nearest seed. How good the list is: qanchor-cli audience quality.

    Example: qanchor-cli lookalike --scenario takeout --seeds customers.csv -k 1000 --out audience.csv
    """
    show_search(run_search(options, out), "Lookalikes", out, as_json)
