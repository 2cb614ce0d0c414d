"""The index of a scenario in a serving process, exchanged without a pause for a newer one."""

import logging
import threading
from types import TracebackType

from qanchor.audience.index import ServedIndex, open_scenario_index
from qanchor.errors import QAnchorError
from qanchor.registry.versions import active_index
from qanchor.site import Site

log = logging.getLogger(__name__)


class LiveIndex:
    """The index in service of a scenario, kept up to date.

    `current` is one reference, replaced atomically: a request that took it keeps its index to the end, even
    when that index's files are deleted meanwhile. An index that cannot be read is refused, and the last good
    one stays.

    Args:
        site: indexes and registry.
        scenario: name of the scenario.
        poll_seconds: seconds between two looks at the registry while the object is entered as a context.

    Raises:
        NotReady: the scenario has no index yet; run `qanchor-cli index build --scenario`.
        IndexInvalid: the first index is damaged; build it again.
    """

    def __init__(self, site: Site, scenario: str, poll_seconds: float = 5.0) -> None:
        self._site, self._scenario = site, scenario
        self._poll_seconds = poll_seconds
        self._refreshing = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._current = open_scenario_index(site, scenario)
        self._refused = ""

    @property
    def current(self) -> ServedIndex:
        """The index to search in; take it once per request."""
        return self._current

    def refresh(self) -> bool:
        """Exchange the index for the registry's newest, if there is a newer one.

        Returns:
            Whether the index was exchanged.
        """
        with self._refreshing:
            version = self._current.version
            try:
                version = active_index(self._site.engine, self._scenario).version
                if version in (self._current.version, self._refused):
                    return False
                self._current = open_scenario_index(self._site, self._scenario)
            except QAnchorError as error:
                # Logged once: a damaged index stays damaged. An unreachable database is tried again.
                self._refused = version
                kept = self._current.version
                log.error("index refused scenario=%s keeps=%s reason=%s", self._scenario, kept, error.problem)
                return False
            log.info("index exchanged scenario=%s version=%s", self._scenario, self._current.version)
            return True

    def __enter__(self) -> "LiveIndex":
        self._stopped.clear()
        name = f"index-{self._scenario}"
        self._thread = threading.Thread(target=self._watch, name=name, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(self._poll_seconds):
            self.refresh()
