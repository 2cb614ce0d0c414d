"""What a language model may cost: tokens and money, counted before and after every call."""

import threading
from dataclasses import dataclass


class CapReached(Exception):  # a signal to stop, caught by the build: no fault of anybody
    """The next call might exceed what may be spent."""


@dataclass(frozen=True)
class Prices:
    """Money for a million tokens, in any one currency.

    Args:
        prompt: what the model reads.
        reply: what it writes.
    """

    prompt: float = 0.0
    reply: float = 0.0

    def cost(self, prompt_tokens: int, reply_tokens: int) -> float:
        """Money for so many tokens."""
        return (self.prompt * prompt_tokens + self.reply * reply_tokens) / 1e6


class Budget:
    """Counts what calls cost; safe to share between threads.

    Args:
        prices: of the model.
        most_tokens: that may be spent; None: no limit.
        most_cost: likewise, money.
    """

    def __init__(
        self, prices: Prices | None = None, most_tokens: int | None = None, most_cost: float | None = None
    ) -> None:
        self._prices = prices or Prices()
        self._most_tokens, self._most_cost = most_tokens, most_cost
        self._lock = threading.Lock()
        self._reserved = (0, 0)
        self.calls = 0
        self.prompt_tokens = 0
        self.reply_tokens = 0

    @property
    def tokens(self) -> int:
        """Spent so far."""
        return self.prompt_tokens + self.reply_tokens

    @property
    def cost(self) -> float:
        """Money spent so far."""
        return self._prices.cost(self.prompt_tokens, self.reply_tokens)

    def reserve(self, prompt_tokens: int, reply_tokens: int) -> None:
        """Set aside what a call may cost at most; `settle` or `release` has to follow.

        Raises:
            CapReached: it might cost more than is left.
        """
        with self._lock:
            prompt, reply = self._reserved[0] + prompt_tokens, self._reserved[1] + reply_tokens
            tokens = self.tokens + prompt + reply
            cost = self._prices.cost(self.prompt_tokens + prompt, self.reply_tokens + reply)
            over = self._most_tokens is not None and tokens > self._most_tokens
            if over or (self._most_cost is not None and cost > self._most_cost):
                raise CapReached
            self._reserved = prompt, reply

    def release(self, prompt_tokens: int, reply_tokens: int) -> None:
        """Give back what was set aside."""
        with self._lock:
            self._reserved = self._reserved[0] - prompt_tokens, self._reserved[1] - reply_tokens

    def settle(self, prompt_tokens: int, reply_tokens: int) -> None:
        """Count what a call did cost."""
        with self._lock:
            self.calls += 1
            self.prompt_tokens += prompt_tokens
            self.reply_tokens += reply_tokens
