"""Shared by the readers of foreign token files: the shard they make, and how they refuse a file.

A foreign file is never written to, and nothing is written beside it.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distrain.data.shards.reader import MappedShard, map_array
from distrain.errors import DataError
from distrain.runs.durable import whole_file

CHUNK = 1 << 22
"""Values looked at together while a file is checked: 32 MiB of int64."""


class ForeignShard(MappedShard):
    """The ids of one foreign file, mapped.

    Args:
        path: The file of ids.
        dtype: Of one id, little-endian.
        ends: Of the documents; none is empty.
        offset_bytes: Where the ids begin.
        remarks: What a reader should know about the file, such as what of it is left out.
    """

    def __init__(
        self,
        path: Path,
        dtype: str,
        ends: NDArray[np.integer],
        *,
        offset_bytes: int = 0,
        remarks: tuple[str, ...] = (),
    ) -> None:
        super().__init__(path, dtype, ends, offset_bytes=offset_bytes)
        self.path = path
        self.dtype = dtype
        self.remarks = remarks


class EndsCache:
    """Document ends that took a pass over a file to find, kept for the next time.

    An entry is found by the file's path, size and time of change, so a file that changed is read
    again. Processes that find the same ends at once write the same bytes.

    Args:
        folder: Where they are kept, beside the run; ``None`` keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def load(self, num_tokens: int, *key: object) -> NDArray[np.uint64] | None:
        """Map the ends kept under ``key``; ``None`` if there are none that fit."""
        if self.folder is None:
            return None
        file = self._file(key)
        try:
            count, rest = divmod(file.stat().st_size, 8)
        except FileNotFoundError:
            return None
        if rest or not count:
            return None
        ends = map_array(file, "uint64", count)
        # An entry is kept unsynced, so a crash may leave a part of one: it is believed only if it
        # covers the ids, else the ends are found anew.
        whole = int(ends[-1]) == num_tokens and first_unsorted(ends) is None
        return ends.astype(np.uint64, copy=False) if whole else None

    def store(self, ends: NDArray[np.uint64], *key: object) -> NDArray[np.uint64]:
        """Keep ``ends`` under ``key``; returns them, mapped if they could be kept."""
        if self.folder is None or not len(ends):
            return ends
        file = self._file(key)
        # Ranks may find the same ends at once; each writes a file of its own, and the last one
        # stays. Not synced: ``load`` believes only what covers the ids.
        with whole_file(file, synced=False) as stream:
            ends.astype("<u8").tofile(stream)
        return map_array(file, "uint64", len(ends)).astype(np.uint64, copy=False)

    def _file(self, key: tuple[object, ...]) -> Path:
        assert self.folder is not None
        name = hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest()
        return self.folder / f"{name}.ends"


@dataclass(frozen=True)
class Reading:
    """Settings of the recipe that a reader needs.

    Args:
        dtype: Of one id; ``None``: as the files say.
        eos_id: Ends a document; ``None``: unknown.
        ends: Keeps the document ends that were found.
    """

    dtype: str | None = None
    eos_id: int | None = None
    ends: EndsCache = field(default_factory=lambda: EndsCache(None))


def version_of(path: Path) -> tuple[str, int, int]:
    """Return what tells a file from another state of it: path, size and time of change."""
    status = path.stat()
    return str(path.resolve()), status.st_size, status.st_mtime_ns


def first_unsorted(ends: NDArray[np.integer]) -> int | None:
    """Return the first place whose value is not above the one before (0 before the first)."""
    last = 0
    for start in range(0, len(ends), CHUNK):
        # Signed, because a difference of unsigned values wraps around instead of going below 0.
        chunk = ends[start : start + CHUNK].astype(np.int64)
        bad = np.flatnonzero(np.diff(chunk, prepend=last) <= 0)
        if len(bad):
            return start + int(bad[0])
        last = int(chunk[-1])
    return None


def check_ends(index: Path, ends: NDArray[np.integer]) -> tuple[NDArray[np.integer], int]:
    """Return the ends without those of empty documents, and how many those were.

    Raises:
        DataError: A document ends before the one in front of it.
    """
    bad = first_unsorted(ends)
    if bad is None:
        # The usual case: the mapped index serves as it is, and nothing of it is copied.
        return ends, 0
    # Equal neighbours are empty documents, which Megatron and datatrove may write; only a fall is
    # damage.
    values = ends.astype(np.int64)
    steps = np.diff(values, prepend=0)
    backwards = np.flatnonzero(steps < 0)
    if len(backwards):
        number = int(backwards[0])
        before = int(values[number - 1]) if number else 0
        raise refused(
            index,
            f"document {number} ending at token {int(values[number])}, before {before}",
            "ends that never fall",
            "The index is damaged: restore it from a copy, or write the files again.",
        )
    return values[steps > 0].astype(np.uint64), int((steps == 0).sum())


def size_of(path: Path, role: str, remedy: str) -> int:
    """Return the size of a file.

    Raises:
        DataError: It is not there, or cannot be read.
    """
    try:
        # ``stat`` alone succeeds for a file that this user may not read.
        with path.open("rb"):
            return path.stat().st_size
    except OSError as error:
        raise refused(path, f"no readable file ({error.strerror})", role, remedy) from None


def check_dtype(path: Path, found: str, reading: Reading) -> None:
    """Refuse a file whose own word about its ids is not the recipe's."""
    if reading.dtype not in (None, found):
        raise refused(
            path,
            f"ids of type {found}",
            f"{reading.dtype}, as dtype says",
            f"Remove dtype, or set it to {found}.",
        )


def empty_remark(count: int) -> tuple[str, ...]:
    """Return the remark on empty documents that are left out, if there are any."""
    return (f"{count} empty documents left out",) if count else ()


def refused(path: Path, found: str, expected: str, remedy: str) -> DataError:
    """Build the error for a foreign file that cannot be read as what it should be."""
    return DataError(str(path), found, expected, remedy)
