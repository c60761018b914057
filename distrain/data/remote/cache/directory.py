"""The folder that the processes of a node share: whole blocks, parts being written, their sum.

``blocks/ab/abcd...`` holds a block under its digest. ``parts/abcd...`` is one being downloaded by
the process that has it locked (flock): the lock ends with the process, however it ends, and whoever
comes next writes the same file anew. ``usage`` holds the sum of all sizes, as text.
"""

import errno
import fcntl
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from distrain.errors import DataError

EVICTED_SHARE = 0.1
"""Of the limit, freed at once: looking through the folder costs a stat for each block."""


class CacheDirectory:
    """Blocks on a node's disk, at most ``limit_bytes`` of them plus what is being downloaded.

    Args:
        root: Made if it is not there. On a local disk: flock and mapping must work.
        limit_bytes: Beyond it, what was read longest ago is removed; who has it mapped keeps it.
    """

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self.root = root
        self.limit_bytes = limit_bytes
        self._blocks = root / "blocks"
        self._parts = root / "parts"
        self._usage = root / "usage"
        self._make_folders()
        self._remove_abandoned()

    def path(self, key: str) -> Path:
        """Return the path of the block of that digest, once it is whole."""
        return self._blocks / key[:2] / key

    def open(self, key: str) -> NDArray[np.uint8] | None:
        """Map a block, unchecked; ``None`` if it is not there."""
        try:
            descriptor = os.open(self.path(key), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return _map(descriptor, os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)

    def touch(self, key: str) -> None:
        """Note that a block is being read now: the others are removed before it."""
        with suppress(FileNotFoundError):
            now = time.time_ns()
            os.utime(self.path(key), ns=(now, now))

    def remove(self, key: str) -> None:
        """Take a block away, if it is there."""
        path = self.path(key)
        with suppress(FileNotFoundError):
            size = path.stat().st_size
            path.unlink()
            self._add_usage(-size)

    def try_claim(self, key: str) -> "PartialBlock | None":
        """Become the one process and thread that downloads a block; ``None`` if another is."""
        path = self._parts / key
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # somebody emptied the cache while it is in use
            self._make_folders()
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it locked until now may have renamed or removed the file that was opened.
            is_current = os.fstat(descriptor).st_ino == path.stat().st_ino
        except (BlockingIOError, FileNotFoundError):
            is_current = False
        if is_current:
            return PartialBlock(self, key, path, descriptor)
        os.close(descriptor)
        return None

    def reserve(self, size_bytes: int) -> None:
        """Count what a part has grown by, and remove old blocks if they are too many."""
        if self._add_usage(size_bytes) > self.limit_bytes:
            with self._locked_usage() as descriptor:
                _write_number(descriptor, self._evict())

    def release(self, size_bytes: int) -> None:
        """Count no longer what was reserved."""
        self._add_usage(-size_bytes)

    def usage_bytes(self) -> int:
        """Return the sum of the sizes as it is counted; may be off after a process was killed."""
        return self._add_usage(0)

    def _evict(self) -> int:
        """Remove what was read longest ago; returns the sizes of all that is left, counted anew."""
        blocks = [file for folder in _names(self._blocks) for file in _files(self._blocks / folder)]
        # Counted anew: processes that were killed leave the sum wrong, and another may have evicted
        # between our look at the sum and the lock.
        total = sum(size for _, size, _ in (*blocks, *_files(self._parts)))
        wanted = int(self.limit_bytes * (1 - EVICTED_SHARE)) if total > self.limit_bytes else total
        for _, size, path in sorted(blocks):
            if total <= wanted:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total

    def _remove_abandoned(self) -> None:
        for key in _names(self._parts):
            part = self.try_claim(key)
            if part is not None:
                part.abandon()

    def _make_folders(self) -> None:
        for folder in (self._blocks, self._parts):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _add_usage(self, size_bytes: int) -> int:
        with self._locked_usage() as descriptor:
            # The sum may be too low after a kill, but a negative one would let the folder grow
            # beyond its limit by as much.
            total = max(0, int(os.pread(descriptor, 32, 0).strip() or b"0") + size_bytes)
            if size_bytes:
                _write_number(descriptor, total)
            return total

    @contextmanager
    def _locked_usage(self) -> Iterator[int]:
        descriptor = os.open(self._usage, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)


class PartialBlock:
    """A block that this thread alone downloads; as a context, abandoned unless committed."""

    def __init__(self, directory: CacheDirectory, key: str, path: Path, descriptor: int) -> None:
        self._directory = directory
        self._key = key
        self._path = path
        self._descriptor = descriptor
        self._size_bytes = os.fstat(descriptor).st_size  # not 0 after a killed process
        self._is_open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_open:
            self.abandon()

    def commit(self, content: bytes) -> NDArray[np.uint8]:
        """Write the block, give it its name, and map it: no eviction takes it from this caller.

        Raises:
            DataError: The disk is full.
        """
        # A hole of the right size is counted by all before it takes any space.
        os.ftruncate(self._descriptor, len(content))
        self._directory.reserve(len(content) - self._size_bytes)
        self._size_bytes = len(content)
        try:
            # All space at once: a full disk is met before anything is written.
            os.posix_fallocate(self._descriptor, 0, len(content))
            _write_all(self._descriptor, content)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise _full(self._directory.root, len(content)) from error
        # Not synced: every reader compares the digest, so what a crash cuts is downloaded again.
        mapped = _map(self._descriptor, len(content))
        path = self._directory.path(self._key)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self._path.rename(path)
        self._directory.touch(self._key)
        self._close()
        return mapped

    def abandon(self) -> None:
        """Leave nothing behind; whoever waits for the block downloads it."""
        self._path.unlink(missing_ok=True)
        self._close()
        if self._size_bytes:
            self._directory.release(self._size_bytes)

    def _close(self) -> None:
        self._is_open = False
        os.close(self._descriptor)


def _map(descriptor: int, size_bytes: int) -> NDArray[np.uint8]:
    if not size_bytes:
        return np.empty(0, np.uint8)
    return np.frombuffer(mmap.mmap(descriptor, size_bytes, prot=mmap.PROT_READ), np.uint8)


def _write_all(descriptor: int, content: bytes) -> None:
    view, written = memoryview(content), 0
    while written < len(view):
        written += os.pwrite(descriptor, view[written:], written)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except FileNotFoundError:
        return []


def _files(folder: Path) -> list[tuple[int, int, Path]]:
    """List (time of last reading in ns, size, path); what vanishes meanwhile is left out."""
    files = []
    for name in _names(folder):
        with suppress(FileNotFoundError):
            found = (folder / name).stat()
            files.append((found.st_mtime_ns, found.st_size, folder / name))
    return files


def _write_number(descriptor: int, number: int) -> None:
    # Always as long, so that nothing of a longer number stays behind a shorter one.
    os.pwrite(descriptor, b"%-31d\n" % number, 0)


def _full(root: Path, size_bytes: int) -> DataError:
    return DataError(
        str(root),
        f"no space left on the disk for a block of {size_bytes} bytes",
        "a disk that holds the cache up to its limit",
        "Free space there, lower data.cache.limit_bytes, or set data.cache.folder (or "
        "DISTRAIN_CACHE_DIR) to another disk.",
    )
