"""Progress of long work: the library reports it, the CLI draws it."""

from typing import Protocol


class Progress(Protocol):
    """A counter of steps that may be displayed."""

    def start(self, label: str, total: int | None = None) -> None:
        """Begin a stage of `total` steps (None: unknown)."""
        ...

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count `steps` more; `note` is a short figure to show, such as the loss."""
        ...


class Silent:
    """Progress that is not displayed."""

    def start(self, label: str, total: int | None = None) -> None:
        """Do nothing."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Do nothing."""
