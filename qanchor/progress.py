"""How long work reports that it moves; the CLI draws it, the library only calls it."""

from typing import Protocol


class Progress(Protocol):
    """A counter that somebody may be watching."""

    def start(self, label: str, total: int | None = None) -> None:
        """Begin a stage of `total` steps (None: unknown)."""
        ...

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count `steps` more; `note` is a short figure to show, such as the loss."""
        ...


class Silent:
    """Progress that nobody watches."""

    def start(self, label: str, total: int | None = None) -> None:
        """Do nothing."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Do nothing."""
