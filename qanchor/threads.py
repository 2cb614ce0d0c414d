"""The one place where thread counts are set.

On two shared cores, OpenMP pools that fight each other cost a factor of ten: a thread that waits by
spinning takes the core from the one it waits for.
"""

import os
import sys

_POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def calm_threads() -> None:
    """Let native threads sleep while they wait. Call it before numpy, torch, faiss or lightgbm are loaded."""
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
