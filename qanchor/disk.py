"""What has to be on the disk before a name makes it count."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Force a file's content, or a folder's list of files, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Force a folder and all that is in it to the disk."""
    for path in (*folder.iterdir(), folder):
        sync(path)
