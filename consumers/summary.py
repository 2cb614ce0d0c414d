"""What one run of the consumer did."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class ConsumeSummary:
    """What one run did.

    Args:
        events: rows added to the event log.
        rejected: messages sent to the dead letters, by reason.
        writes: committed writes.
        fenced: writes refused because another consumer was first.
        seconds: from the first message to the last commit.
        lag: by partition the messages left, as far as the brokers say.
        repeated: events left out because the log holds them already.
        skipped: messages left out on request.
    """

    events: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    writes: int = 0
    fenced: int = 0
    seconds: float = 0.0
    lag: dict[int, int] = field(default_factory=dict)
    repeated: int = 0
    skipped: int = 0

    @property
    def rate(self) -> float:
        """Messages per second."""
        return (self.events + self.rejected.total()) / max(self.seconds, 1e-9)
