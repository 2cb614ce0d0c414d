"""`python -m consumers`: the event consumer without the command line, for containers; ends on SIGTERM.

Settings come from QANCHOR_ environment variables, the consumer's name is the host's.
"""

import sys
import threading

from consumers.consume import ConsumeOptions, run_consumer
from consumers.shutdown import end_process, stop_on_signals
from qanchor.errors import QAnchorError
from qanchor.progress import Silent
from qanchor.registry.session import require_schema
from qanchor.site import Site


def main() -> int:
    """Consume until SIGTERM.

    Returns:
        The exit code: 0, or that of the error that ended it.
    """
    stop = threading.Event()
    stop_on_signals(stop)
    try:
        site = Site.open()
        require_schema(site.engine)
        run_consumer(site, ConsumeOptions(), stop, Silent())
    except QAnchorError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return error.exit_code
    if stop.is_set():
        end_process(0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
