"""The one way to the disk: what a name shows is there whole, also after a crash or a power loss.

Order: the file's bytes, then its folder's entry, then the rename that makes it visible.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of a write that failed for want of room."""


def write_file(path: Path, content: bytes) -> None:
    """Create ``path`` with ``content`` and sync it; the folder's entry is not synced yet."""
    with path.open("xb") as stream:
        stream.write(content)
        sync_stream(stream)


def write_text(path: Path, text: str) -> None:
    """Replace a text file so that a reader, or a crash, sees the old one or the new one whole."""
    with whole_file(path) as stream:
        stream.write(text.encode())


def create_text(path: Path, text: str) -> bool:
    """Create a text file, whole at once; ``False`` if there is one of that name, which stays.

    Of several processes, on whatever nodes, exactly one is told that it was the one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unnamed = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        write_file(unnamed, text.encode())
        # A server may lose its answer and be asked again: then the number of names is the truth.
        with suppress(FileExistsError):
            path.hardlink_to(unnamed)
        is_own = unnamed.stat().st_nlink == 2
    finally:
        unnamed.unlink(missing_ok=True)
    sync(path.parent)
    return is_own


def append_line(path: Path, line: str) -> None:
    """Append a line, which is on disk when this returns. By one process at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as stream:
        stream.seek(0)
        # What follows a line that was cut short must not be glued to it.
        stream.truncate(stream.read().rfind(b"\n") + 1)
        stream.write(line.encode() + b"\n")
        sync_stream(stream)
    sync(path.parent)


@contextmanager
def whole_file(path: Path, *, one_writer: bool = False, synced: bool = True) -> Iterator[BinaryIO]:
    """Give an empty file to fill; it takes the name ``path`` when the block ends well.

    Args:
        path: What has this name is replaced; its folder is made.
        one_writer: Nobody else writes it at the same time: what a killed writer left is then
            written over, and no rest of it stays.
        synced: Wait until the content is on disk. Without it, a power loss may leave a part under
            the name: only for what readers check, and make again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    ending = "unfinished" if one_writer else secrets.token_hex(4)
    unfinished = path.with_name(f".{path.name}.{ending}")
    try:
        # Not a file of ``tempfile``: those are for the owner alone.
        with unfinished.open("wb" if one_writer else "xb") as stream:
            yield stream
            name_file(stream, path, synced=synced)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def name_file(stream: BinaryIO, path: Path, *, synced: bool = True) -> None:
    """Give an open file its name, content first; see ``whole_file``."""
    # A name must stand for a whole file: whoever sees it reads it, or maps it, at once.
    if synced:
        sync_stream(stream)
    else:
        stream.flush()
    Path(stream.name).replace(path)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed calls of ``write_text`` left in a folder that nobody writes to now."""
    for path in folder.glob(".*.????????"):
        if path.is_file():
            path.unlink()


def sync_stream(stream: IO[Any]) -> None:
    """Wait until what was written to an open file is on disk."""
    stream.flush()
    os.fsync(stream.fileno())


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_folder(source: Path, target: Path) -> None:
    """Rename a folder, and make that durable. ``target`` does not exist."""
    source.rename(target)
    sync(target.parent)
    if source.parent != target.parent:
        sync(source.parent)


def remove(path: Path) -> None:
    """Remove a file, a folder with all it holds, or a link but not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_whole(folder: Path) -> None:
    """Remove a folder; what is killed on the way leaves none of half the content."""
    hidden = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(hidden, ignore_errors=True)
    if folder.exists():
        folder.rename(hidden)
        shutil.rmtree(hidden)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it takes the name ``folder`` when the block ends well.

    What was there under that name is replaced. After an error, or a crash at any moment, ``folder``
    is the old one, the new one or missing, never half of one. One writer at a time.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    replaced = folder.with_name(f".{folder.name}.replaced")
    for leftover in (partial, replaced):
        with suppress(OSError):  # what matters of it is noticed below
            remove(leftover)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in sorted(partial.rglob("*")):
            sync(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if folder.exists() or folder.is_symlink():
        folder.rename(replaced)
    partial.rename(folder)
    sync(folder.parent)
    with suppress(OSError):
        remove(replaced)
