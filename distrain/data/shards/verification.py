"""Compares files with what was written down of them: sizes always, content when asked."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from distrain.data.shards.digests import (
    BLOCK_BYTES,
    DIGEST_BYTES,
    FileRecord,
    block_digests,
    digest_of_blocks,
)
from distrain.errors import DataError

MAX_THREADS = 8
"""More do not help: two already read a disk, and eight a network file system, at its speed."""


def damaged(where: Path | str, found: str) -> DataError:
    """Build the error for a file that is not what was written."""
    parent = where.parent if isinstance(where, Path) else where.rpartition("/")[0]
    return DataError(
        str(where),
        found,
        "the file that the prepare stage wrote",
        f"Restore it from a copy, or remove the folder {parent} and run the prepare stage "
        "again: it makes the same bytes.",
    )


def check_files(
    folder: Path, files: dict[str, FileRecord], *, verify: bool, block_bytes: int = BLOCK_BYTES
) -> None:
    """Compare the size of every file and, with ``verify``, its content, in threads.

    Raises:
        DataError: A file is missing or differs; the first one in the order of ``files``.
    """
    # All sizes first: a missing file is named before hours of reading.
    for name, record in files.items():
        _check_size(folder / name, record)
    if not verify:
        return
    threads = min(MAX_THREADS, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(threads, thread_name_prefix="verify") as executor:
        checks = [
            executor.submit(_check_content, folder / name, record, block_bytes)
            for name, record in files.items()
        ]
        try:
            for check in checks:
                # In the order of the files, so that the same damage gives the same message.
                check.result()
        finally:
            executor.shutdown(cancel_futures=True)


def _check_size(path: Path, record: FileRecord) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise damaged(path, "nothing") from None
    except OSError as error:
        raise damaged(path, f"no readable file ({error.strerror})") from error
    if size != record.size_bytes:
        raise damaged(path, f"{size} bytes where {record.size_bytes} were written")


def _check_content(path: Path, record: FileRecord, block_bytes: int) -> None:
    try:
        digests = b"".join(block_digests(path, block_bytes))
    except OSError as error:  # a disk that fails
        raise damaged(path, f"no readable file ({error.strerror})") from error
    if digest_of_blocks(digests) != record.digest:
        raise damaged(
            path, f"other content{_first_difference(path, digests, block_bytes)} (digest differs)"
        )


def _first_difference(path: Path, digests: bytes, block_bytes: int) -> str:
    # Only tokens have a list of digests beside them, and that may be what is damaged.
    known = path.with_suffix(".blocks")
    if path.suffix != ".bin" or not known.exists():
        return ""
    wanted = known.read_bytes()
    for start in range(0, len(digests), DIGEST_BYTES):
        if digests[start : start + DIGEST_BYTES] != wanted[start : start + DIGEST_BYTES]:
            number = start // DIGEST_BYTES
            return f" in block {number}, from byte {number * block_bytes}"
    return ""
