"""Whether a consumer's loop turns and can do its work, for /healthz and /readyz."""

import time

from sqlalchemy import Engine, text

from qanchor.errors import DatabaseUnavailable
from qanchor.registry.session import transaction


class Health:
    """Whether the consumer's loop turns, and whether it can do its work.

    Args:
        engine: the registry with the ledger.
        longest_pause_seconds: a loop that does not turn for so long hangs; the group would drop it too.
    """

    def __init__(self, engine: Engine, longest_pause_seconds: float) -> None:
        self._engine, self._longest = engine, longest_pause_seconds
        self._turned = time.monotonic()
        self._owned = 0
        self._refusal = ""

    def beat(self, owned: int, refusal: str = "") -> None:
        """Note that the loop has turned.

        Args:
            owned: number of partitions owned.
            refusal: what the brokers refuse; empty if nothing.
        """
        self._turned, self._owned, self._refusal = time.monotonic(), owned, refusal

    def why_not_alive(self) -> str | None:
        """None if the loop turns, otherwise what is wrong."""
        silent = time.monotonic() - self._turned
        return None if silent <= self._longest else f"the loop has not turned for {silent:.0f} s"

    def why_not_ready(self) -> str | None:
        """None if partitions are assigned and the ledger answers, otherwise what is wrong."""
        if self._refusal:
            return self._refusal
        if not self._owned:
            return "no partition is assigned"
        try:
            with transaction(self._engine) as session:
                session.execute(text("SELECT 1 FROM ledger_offsets LIMIT 1"))
        except DatabaseUnavailable as error:
            return error.problem
        return self.why_not_alive()
