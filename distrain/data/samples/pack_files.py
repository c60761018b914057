"""Plans of packing on disk: ``NNNNN.pack`` a shard, planned once and mapped by every rank.

A fixed header (struct ``HEADER``, little-endian, zeros up to ``HEADER_BYTES``), then the arrays of
``packing.PackPlan`` one after the other: ``first_piece`` and ``starts`` as int64, ``lengths`` as
uint32. A plan is a pure function of what the header names, so a file may be removed at any time.
"""

import logging
import mmap
import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from distrain.data.samples.packing import PACK_VERSION, WINDOW_DOCUMENTS, PackPlan, plan_best_fit
from distrain.data.shards.digests import DIGEST_BYTES, record_of
from distrain.data.shards.reader import ShardedTokens
from distrain.errors import DataError, PreflightError
from distrain.runs.durable import sync, whole_file
from distrain.runs.lock import acquire

log = logging.getLogger(__name__)

MAGIC = b"dst.pack"
HEADER = struct.Struct("<8sII3Q16s16s")
HEADER_BYTES = 128
"""The arrays begin at a multiple of their item size and of a cache line."""
LOCK = ".pack.lock"
PATIENCE_S = 3600.0
"""One core plans some 1e10 documents in this time; a longer wait is for a process that hangs."""
PROGRESS_S = 10.0


class _Header(NamedTuple):
    magic: bytes
    version: int
    length: int
    window_documents: int
    bins: int
    pieces: int
    ends_digest: bytes
    digest: bytes
    """XXH3-128 of the content, seeded by the XXH3-64 of the header with zeros here."""

    @property
    def content_bytes(self) -> int:
        return 8 * (self.bins + 1) + (8 + 4) * self.pieces

    def digest_of(self, content: bytes | memoryview) -> bytes:
        blank = HEADER.pack(*self._replace(digest=b""))
        return xxhash.xxh3_128(content, xxhash.xxh3_64_intdigest(blank)).digest()


def ends_digest(ends: NDArray[np.integer]) -> str:
    """Return the digest of document ends, in hexadecimal: of an ``.idx`` file that holds them.

    So that of a prepared shard is in its manifest already, if that has blocks of the usual size.
    """
    return record_of(ends.astype("<u8").tobytes()).digest


def write_pack(path: Path, plan: PackPlan, digest: str) -> None:
    """Write a plan, whole or not at all; the caller's lock keeps a second writer away.

    Args:
        path: Of the file; replaced if it exists.
        plan: Of one shard.
        digest: ``ends_digest`` of the shard.
    """
    content = (
        plan.first_piece.astype("<i8").tobytes()
        + plan.starts.astype("<i8").tobytes()
        + plan.lengths.astype("<u4").tobytes()
    )
    made_from = bytes.fromhex(digest)
    if len(made_from) != DIGEST_BYTES:
        raise ValueError(f"digest {digest!r}; expected {2 * DIGEST_BYTES} hexadecimal digits")
    header = _Header(
        MAGIC,
        PACK_VERSION,
        plan.length,
        plan.window_documents,
        plan.num_bins,
        len(plan.starts),
        made_from,
        b"",
    )
    # Over the header too: a plan whose length or source was changed in the file is damaged as well.
    header = header._replace(digest=header.digest_of(content))
    with whole_file(path, one_writer=True) as stream:
        stream.write(HEADER.pack(*header).ljust(HEADER_BYTES, b"\0"))
        stream.write(content)
    sync(path.parent)


def open_pack(
    path: Path,
    digest: str,
    length: int,
    *,
    window_documents: int = WINDOW_DOCUMENTS,
    verify: bool = False,
) -> PackPlan:
    """Map the plan of one shard.

    Args:
        path: What ``write_pack`` wrote.
        digest: ``ends_digest`` of the shard that it is wanted for.
        length: T, the positions of a bin.
        window_documents: Documents packed together.
        verify: Also read all of it and compare its digest; the size is always compared.

    Raises:
        DataError: It is damaged, or a plan of something else.
        FileNotFoundError: There is none.
    """
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size < HEADER_BYTES:
            raise _refused(path, f"{size} bytes", f"a header of {HEADER_BYTES}")
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    header = _Header(*HEADER.unpack_from(mapped))
    # First what it is for: a plan of another length is whole, but not wanted here.
    _check_purpose(path, header, digest, length, window_documents)
    _check_content(path, header, mapped, verify=verify)
    # Views of the mapping, which they keep alive: ranks of a node share its pages, and a plan of
    # any size opens at once.
    starts_at = HEADER_BYTES + 8 * (header.bins + 1)
    return PackPlan(
        header.length,
        header.window_documents,
        np.frombuffer(mapped, "<i8", header.bins + 1, HEADER_BYTES),
        np.frombuffer(mapped, "<i8", header.pieces, starts_at),
        np.frombuffer(mapped, "<u4", header.pieces, starts_at + 8 * header.pieces),
    )


def ensure_packs(
    tokens: ShardedTokens,
    folder: Path,
    length: int,
    *,
    window_documents: int = WINDOW_DOCUMENTS,
    digests: Sequence[str] | None = None,
    verify: bool = False,
) -> list[PackPlan]:
    """Map the plans of all shards; plan first those that have no file yet.

    Any number of processes may call this at once: one plans, shard by shard, and the others wait.
    A killed one leaves whole files, which the next one does not plan again.

    Args:
        tokens: The shards, in the order of the stream.
        folder: Where the files are, or will be; one for each ``length``.
        length: T, the positions of a bin.
        window_documents: Documents packed together.
        digests: ``ends_digest`` of each shard, if known; else all ends are read.
        verify: As for ``open_pack``.

    Raises:
        DataError: A file is damaged or a plan of something else, or another process has held the
            folder for ``PATIENCE_S``.
    """
    if digests is None:
        # Of prepared shards the manifest knows them; here all ends are read.
        digests = [ends_digest(shard.ends) for shard in tokens.shards]
    # By place in the stream, not by name: foreign shards of several folders may be called alike.
    paths = [folder / f"{number:05d}.pack" for number in range(len(tokens.shards))]
    # A file comes by renaming, so one that exists is whole: the usual start takes no lock.
    if not all(path.exists() for path in paths):
        _plan_missing(tokens, paths, digests, length, window_documents)
    return [
        open_pack(path, digest, length, window_documents=window_documents, verify=verify)
        for path, digest in zip(paths, digests, strict=True)
    ]


def _plan_missing(
    tokens: ShardedTokens,
    paths: Sequence[Path],
    digests: Sequence[str],
    length: int,
    window_documents: int,
) -> None:
    folder = paths[0].parent
    lock = _lock(folder)
    try:
        # Looked up again: the last holder may have planned them all.
        missing = [number for number, path in enumerate(paths) if not path.exists()]
        reported = time.monotonic()
        for done, number in enumerate(missing, 1):
            plan = plan_best_fit(tokens.shards[number].ends, length, window_documents)
            write_pack(paths[number], plan, digests[number])
            if done == len(missing) or time.monotonic() - reported > PROGRESS_S:
                reported = time.monotonic()
                log.info(
                    "packed documents into samples of %d tokens: %d of %d shards in %s; the last: "
                    "%d documents in %d samples, %.2f %% padding",
                    length, done, len(missing), folder,
                    tokens.shards[number].num_documents, plan.num_bins, 100 * plan.padding(),
                )  # fmt: skip
    finally:
        os.close(lock)


def _lock(folder: Path) -> int:
    try:
        return acquire(folder / LOCK, folder.name, PATIENCE_S)
    except PreflightError:
        raise DataError(
            str(folder),
            f"another process that has been planning the packing for {PATIENCE_S:.0f} s",
            "plans of all shards",
            "End the process that holds the lock file in that folder, and start again: shards "
            "that are planned stay so.",
        ) from None


def _check_purpose(
    path: Path, header: _Header, digest: str, length: int, window_documents: int
) -> None:
    if header.magic != MAGIC:
        raise _refused(path, f"a file that begins with {header.magic!r}", f"{MAGIC!r}")
    found = (header.version, header.length, header.window_documents, header.ends_digest.hex())
    wanted = (PACK_VERSION, length, window_documents, digest)
    names = (
        "of version",
        "for samples of length",
        "for windows of documents:",
        "of document ends with the digest",
    )
    for name, value, expected in zip(names, found, wanted, strict=True):
        if value != expected:
            raise _refused(path, f"a packing plan {name} {value}", f"one {name} {expected}")


def _check_content(path: Path, header: _Header, mapped: mmap.mmap, *, verify: bool) -> None:
    size = len(mapped) - HEADER_BYTES
    if size != header.content_bytes:
        raise _refused(
            path,
            f"{size} bytes after the header",
            f"{header.content_bytes} for {header.bins} samples and {header.pieces} pieces",
        )
    if verify and header.digest_of(memoryview(mapped)[HEADER_BYTES:]) != header.digest:
        raise _refused(path, "other content", "content with the digest that its header names")


def _refused(path: Path, found: str, expected: str) -> DataError:
    return DataError(
        str(path),
        found,
        expected,
        "Remove the file: it is planned again from the shard at the next start.",
    )
