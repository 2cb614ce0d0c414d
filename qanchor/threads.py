"""The one place where thread counts are set.

On two shared cores, OpenMP pools that fight each other cost a factor of ten, so every
process calls `limit_threads` once, before numpy, torch, faiss or lightgbm load theirs.
"""

import os


def limit_threads(threads: int) -> int:
    """Bound every native thread pool of this process.

    Args:
        threads: pool size; 0 takes the number of usable cores.

    Returns:
        The size that was set.
    """
    size = threads or len(os.sched_getaffinity(0))
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ARROW_IO_THREADS"):
        os.environ.setdefault(variable, str(size))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Spinning threads steal the second core from the one that reads ahead.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return size
