"""Processes to be killed, forked from one that has imported everything already.

Production code knows nothing of this: functions are replaced in the process that is to die.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any, Final

FORKS: Final = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pytest", "tests.integration.victims", "tests.integration.test_compaction"])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def around(
    owner: Any, name: str, before: Callable[[], object] = int, after: Callable[[], object] = int
) -> None:
    """Replace a function by one that does something before or after its next call."""
    real = getattr(owner, name)

    def replaced(*given: Any, **named: Any) -> Any:
        before()
        result = real(*given, **named)
        after()
        return result

    setattr(owner, name, replaced)
