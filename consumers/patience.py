"""How long a refusal of the brokers is borne before it ends the run."""

import logging
import time
from typing import Final

from consumers.metrics import ConsumerMetrics
from consumers.stop_rule import StopRule
from qanchor.errors import BrokerRefusal

log = logging.getLogger(__name__)

_REFUSAL_SECONDS: Final = 5.0  # a node that has just started may not know its topics yet


class Patience:
    """Waits for a refusal to end: a short while, or in a service for as long as it takes.

    Args:
        rule: says whether this run is a service.
        metrics: shows the refusal while it lasts.
    """

    def __init__(self, rule: StopRule, metrics: ConsumerMetrics) -> None:
        self._is_service, self._metrics = rule.is_service, metrics
        self._refusal: BrokerRefusal | None = None
        self._since = 0.0

    @property
    def problem(self) -> str:
        """The refusal that lasts, in words; empty without one."""
        return "" if self._refusal is None else self._refusal.problem

    def note(self, refusal: BrokerRefusal | None) -> None:
        """Take the outcome of a poll.

        Raises:
            BrokerRefusal: the refusal has lasted too long, or trying again does not cure it.
        """
        now = time.monotonic()
        if refusal is not None and self._refusal is None:
            self._since = now
            if self._is_service:
                log.warning("refused problem=%r", refusal.problem)
        self._refusal = refusal
        self._metrics.refused(refusal is not None)
        if refusal is None:
            return
        longest = float("inf") if self._is_service else _REFUSAL_SECONDS
        if now - self._since >= (longest if refusal.may_be_granted else 0.0):
            raise refusal
