"""Ids in a row and nothing else: NumPy's ``.npy``, or the bare ids that OLMo and dolma call so.

A file that begins with NumPy's magic says its own type. A bare one does not: the recipe names it.
Documents are found by the id that ends them, in one pass over the file.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distrain.data.adapters.foreign import (
    CHUNK,
    ForeignShard,
    Reading,
    check_dtype,
    refused,
    size_of,
    version_of,
)
from distrain.data.shards.reader import map_array
from distrain.errors import DataError

MAGIC = np.lib.format.MAGIC_PREFIX
ENDINGS = (".npy", ".bin")
DTYPES = ("uint8", "uint16", "uint32", "int32", "int64")
SHOWN = 3


def locate(path: Path) -> Path | None:
    """Return the file that ``path`` stands for: itself, whatever its ending."""
    return path


def open_shard(path: Path, reading: Reading) -> ForeignShard:
    """Open one file.

    Raises:
        DataError: It is no row of ids, its type is not known, or no document ends in it.
    """
    size = size_of(path, "a file of token ids", "Correct the path.")
    with path.open("rb") as stream:
        # By content, as bare ids are called ``.npy`` too.
        has_header = stream.read(len(MAGIC)) == MAGIC
    if has_header:
        dtype, offset = _read_header(path)
        check_dtype(path, dtype, reading)
    else:
        dtype, offset = _bare_dtype(path, size, reading), 0
    num_tokens, rest = divmod(size - offset, np.dtype(dtype).itemsize)
    if rest:
        raise refused(
            path,
            f"{size - offset} bytes of ids",
            f"a multiple of {np.dtype(dtype).itemsize}, the bytes of one {dtype}",
            "Set dtype to the type that wrote the file; if it is right, the file was cut short.",
        )
    # After what the file alone can tell: a wrong type would make any eos_id look wrong.
    if reading.eos_id is None:
        raise refused(
            path,
            "no eos_id",
            "the id that ends each document: nothing else in this file says where one ends",
            "Set eos_id, or name the tokenizer that has it.",
        )
    ids = map_array(path, dtype, num_tokens, offset_bytes=offset)
    key = ("npy", version_of(path), dtype, reading.eos_id)
    ends = reading.ends.load(num_tokens, *key)
    if ends is None:
        ends = reading.ends.store(_find_ends(path, ids, reading.eos_id), *key)
    return ForeignShard(path, dtype, ends, offset_bytes=offset)


def _bare_dtype(path: Path, size: int, reading: Reading) -> str:
    # Never guessed: most files are a whole number of ids of several types.
    if reading.dtype is None:
        raise refused(
            path,
            f"{size} bytes without a header, and no dtype",
            f"the type of one id: {', '.join(DTYPES)}",
            "Set dtype: uint16 where the vocabulary has at most 65,536 ids, else mostly uint32.",
        )
    return reading.dtype


def _read_header(path: Path) -> tuple[str, int]:
    """Return the type that NumPy's header names, and where the ids begin."""
    with path.open("rb") as stream:
        try:
            version = np.lib.format.read_magic(stream)
            if version == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            else:
                # Version 3.0 differs from 2.0 in the encoding of field names, and ids have no
                # fields.
                shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        except ValueError as error:
            raise refused(
                path,
                f"a damaged NumPy header ({error})",
                "the header that numpy.save writes",
                "Restore the file from a copy, or write it again.",
            ) from None
        offset = stream.tell()
    # Types of either byte order have one name: only the string form tells them apart.
    little = dtype.newbyteorder("<")
    if dtype.name not in DTYPES or dtype.str != little.str:
        raise refused(
            path,
            f"values of type {dtype.str}",
            f"little-endian ids: {', '.join(DTYPES)}",
            'Write it again: numpy.save(path, ids.astype("<u4")).',
        )
    if len(shape) != 1:
        raise refused(
            path,
            f"an array of shape {shape}",
            "ids in one row",
            "Write it again: numpy.save(path, ids.reshape(-1)).",
        )
    size = path.stat().st_size - offset
    if size != shape[0] * dtype.itemsize:
        raise refused(
            path,
            f"{size} bytes of ids",
            f"{shape[0] * dtype.itemsize}: {shape[0]} of type {dtype.name}, as its header says",
            "The file was cut short or added to: restore it from a copy.",
        )
    return str(dtype.name), offset


def _find_ends(path: Path, ids: NDArray[np.integer], eos_id: int) -> NDArray[np.uint64]:
    """Find where documents end; what follows the last ``eos_id`` is a document too."""
    found = [
        # Behind the id that ends a document, which belongs to it.
        np.flatnonzero(ids[start : start + CHUNK] == eos_id) + (start + 1)
        for start in range(0, len(ids), CHUNK)
    ]
    ends = np.concatenate(found) if found else np.empty(0, np.int64)
    if len(ids) and not len(ends):
        raise _no_ends(path, ids, eos_id)
    if len(ids) and ends[-1] != len(ids):
        ends = np.append(ends, len(ids))
    return ends.astype(np.uint64)


def _no_ends(path: Path, ids: NDArray[np.integer], eos_id: int) -> DataError:
    values, counts = np.unique(ids[:CHUNK], return_counts=True)
    # The id that ends documents is mostly among the most frequent ones.
    most = np.argsort(-counts, kind="stable")[:SHOWN]
    return refused(
        path,
        f"no id {eos_id} among {len(ids)}",
        "the end of at least one document",
        "Set eos_id, or dtype if it is wrong; the most frequent ids read so are "
        + ", ".join(f"{int(values[place])} ({int(counts[place])} times)" for place in most)
        + ".",
    )
