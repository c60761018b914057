"""Writing so that what a name shows is on disk: file, then folder, then the rename."""

import os
from pathlib import Path


def write_file(path: Path, content: bytes) -> None:
    """Create ``path`` with ``content`` and sync it; the folder's entry is not synced yet."""
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names inside ``folder`` survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_folder(source: Path, target: Path) -> None:
    """Rename a folder, and make that durable. ``target`` does not exist."""
    source.rename(target)
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)
