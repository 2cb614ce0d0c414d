"""`python -m consumers`: the event consumer without the command line, for containers; ends on SIGTERM.

Settings come from QANCHOR_ environment variables, the consumer's name is the host's.
"""

import sys
import threading

from consumers.running import ConsumeOptions, run_consumer
from consumers.stopping import end_process, stop_on_signals
from qanchor.errors import QAnchorError
from qanchor.logs import configure_logging
from qanchor.progress import Silent
from qanchor.registry.session import open_engine, require_schema
from qanchor.settings import load_settings
from qanchor.workspace import load_workspace


def main() -> int:
    """Consume until SIGTERM.

    Returns:
        The exit code: 0, or that of the error that ended it.
    """
    stop = threading.Event()
    stop_on_signals(stop)
    try:
        settings = load_settings()
        configure_logging(settings.log.level)
        engine = open_engine(settings.database_url, settings.database.busy_seconds)
        require_schema(engine)
        places = (load_workspace(settings.repo_path), settings.state, engine)
        run_consumer(settings, places, ConsumeOptions(), stop, Silent())
    except QAnchorError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return error.exit_code
    if stop.is_set():
        end_process(0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
