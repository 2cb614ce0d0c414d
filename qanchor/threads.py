"""Thread counts, which are set here alone, and items that a thread prepares ahead.

On two shared cores, OpenMP pools that compete cost a factor of ten: a thread that waits by spinning takes the
core from the one that it waits for.
"""

import os
import sys
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")
_END: Final = object()
_POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def calm_threads() -> None:
    """Let native threads sleep while they wait; call it before numpy, torch, faiss or lightgbm are loaded."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def limit_threads(threads: int) -> int:
    """Bound the native thread pools of this process, whether they are loaded already or not.

    Args:
        threads: pool size; 0 takes the number of usable cores.

    Returns:
        The size that was set.
    """
    calm_threads()
    size = threads or len(os.sched_getaffinity(0))
    for variable in _POOLS:
        os.environ.setdefault(variable, str(size))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(size)
    return size


def thread_count() -> int:
    """Native threads of this process: what the environment or `limit_threads` set, else the usable cores."""
    value = os.environ.get(_POOLS[0], "").partition(",")[0]
    return int(value) if value.isdigit() and int(value) else len(os.sched_getaffinity(0))


def ahead(items: Iterable[T], most: int = 1) -> Generator[T, None, None]:
    """The items in their order, prepared by another thread, up to `most` ahead of the caller.

    An error of an item is raised in its turn. A caller that stops early waits for the item that is being
    prepared, and no other is begun.

    Args:
        items: prepared by iterating.
        most: how many may be ready.
    """
    source = iter(items)
    pool = ThreadPoolExecutor(1, "ahead")
    try:
        ready = deque(pool.submit(next, source, _END) for _ in range(most))
        while (item := ready.popleft().result()) is not _END:
            ready.append(pool.submit(next, source, _END))
            yield item  # type: ignore[misc]
    finally:
        pool.shutdown(cancel_futures=True)
