"""A Confluent-compatible schema registry, as much of it as a reader needs: the schema of an id, once."""

import logging
import time
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from qanchor.errors import StoreUnavailable

_TIMEOUT_SECONDS: Final = 5.0
# Waits 0.2, 0.4, 0.8, 1.6 s: about as long as a poll may take without the group noticing.
_RETRIES: Final = 5
_TRY_AGAIN: Final = (429, 500, 502, 503, 504)
_NO_SUCH_SCHEMA: Final = 40403
_UNKNOWN_FOR_SECONDS: Final = 60.0


class SchemaRegistry:
    """Schemas by id; an id's schema never changes, so each is fetched once.

    Args:
        url: http(s)://[user:password@]host:port.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._session = requests.Session()
        logging.getLogger("urllib3").setLevel(
            logging.ERROR
        )  # a line for each retry says no more than the error
        retry = Retry(
            _RETRIES,
            backoff_factor=0.1,
            status_forcelist=_TRY_AGAIN,
            raise_on_status=False,
            respect_retry_after_header=False,
        )
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry))
        self._known: dict[int, str] = {}
        self._unknown: dict[int, float] = {}

    @property
    def address(self) -> str:
        """Where it is, without the password."""
        return urlsplit(self._url).netloc.rpartition("@")[2]

    def schema(self, number: int) -> str | None:
        """The text of a schema.

        Args:
            number: its id, from the first bytes of a message.

        Returns:
            None if the registry has no schema of that id; the answer counts for a minute.

        Raises:
            StoreUnavailable: no answer, or not a registry's; nothing may be committed.
        """
        if number in self._known:
            return self._known[number]
        if time.monotonic() < self._unknown.get(number, 0.0):
            return None
        answer = self._fetch(f"{self._url}/schemas/ids/{number}")
        if answer is None:
            self._unknown[number] = time.monotonic() + _UNKNOWN_FOR_SECONDS
            return None
        self._known[number] = answer
        return answer

    def _fetch(self, url: str) -> str | None:
        try:
            response = self._session.get(url, timeout=_TIMEOUT_SECONDS)
            body: Any = response.json()
            # Any web server says 404; only a registry names what is missing.
            if response.status_code == requests.codes.not_found and body["error_code"] == _NO_SUCH_SCHEMA:
                return None
            response.raise_for_status()
            return str(body["schema"])
        except (requests.RequestException, ValueError, KeyError, TypeError) as error:
            raise StoreUnavailable(
                f"the schema registry at {self.address} gives no answer ({type(error).__name__})",
                "Start it, or correct QANCHOR_KAFKA__SCHEMA_REGISTRY; nothing is lost.",
            ) from error
