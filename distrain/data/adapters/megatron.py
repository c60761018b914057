"""Megatron-Core's indexed dataset: ids in ``NAME.bin``, sequences and documents in ``NAME.idx``.

The form is that of ``megatron/core/datasets/indexed_dataset.py``, version 1, little-endian:
9 bytes of magic, version (uint64), code of the ids' type (uint8), number S of sequences and D of
document indices (uint64 each), then S lengths (int32, tokens), S pointers (int64, bytes into
``.bin``) and D document indices (int64): document d is the sequences [indices[d], indices[d + 1]).
"""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distrain.data.adapters.foreign import (
    CHUNK,
    ForeignShard,
    Reading,
    check_dtype,
    check_ends,
    empty_remark,
    refused,
    size_of,
    version_of,
)
from distrain.data.shards.reader import map_array

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
DTYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 8: "uint16"}
"""Code -> type of the ids; 6 and 7 are floats, which are no ids."""
ENDINGS = (".bin",)
WRITE_AGAIN = "The pair is damaged: restore it from a copy, or run preprocess_data.py again."


def locate(path: Path) -> Path | None:
    """Return the ``.bin`` that ``path`` stands for: itself, its index, or their common prefix."""
    if path.suffix in (".bin", ".idx"):
        return path.with_suffix(".bin")
    named = path.with_name(f"{path.name}.bin")
    return named if named.is_file() else None


def open_shard(path: Path, reading: Reading) -> ForeignShard:
    """Open one pair of files by its ``.bin``.

    Raises:
        DataError: One of them is missing or damaged, or the index is of another version or of
            multimodal data.
    """
    index = path.with_suffix(".idx")
    size = size_of(index, "the index of a Megatron dataset", f"Put it beside {path.name}.")
    size_bytes = size_of(path, "the ids of a Megatron dataset", f"Put it beside {index.name}.")
    dtype, sequences, documents = _read_header(index, size)
    check_dtype(index, dtype, reading)
    num_tokens, rest = divmod(size_bytes, np.dtype(dtype).itemsize)
    # Of both files, as either may be exchanged alone.
    key = ("megatron", version_of(path), version_of(index))
    # A size that is no whole number of ids cannot be what the index says: ``_document_ends``
    # refuses it with both figures, so a kept entry must not be asked first.
    ends = None if rest else reading.ends.load(num_tokens, *key)
    if ends is None:
        found = _document_ends(index, path, dtype, sequences, documents)
        ends = reading.ends.store(found, *key)
    # Counted from the header, because ends that were kept do not say what was left out of them.
    return ForeignShard(path, dtype, ends, remarks=empty_remark(documents - 1 - len(ends)))


def _read_header(index: Path, size: int) -> tuple[str, int, int]:
    """Return the type of the ids, and the numbers of sequences and of document indices."""
    with index.open("rb") as stream:
        head = stream.read(HEADER.size)
    # Before the length of the header: a short file of another kind is no damaged index.
    if not head.startswith(MAGIC):
        raise refused(
            index,
            f"a file that begins with {head[: len(MAGIC)]!r}",
            f"{MAGIC!r}, as every index of Megatron-Core begins",
            "Correct the path, or set format to what wrote the file.",
        )
    if len(head) < HEADER.size:
        raise refused(
            index,
            f"{size} bytes",
            f"a header of {HEADER.size} bytes",
            WRITE_AGAIN,
        )
    _, version, code, sequences, documents = HEADER.unpack(head)
    if version != VERSION:
        raise refused(
            index,
            f"version {version} of the index",
            f"version {VERSION}",
            "Write the files again with a release of Megatron-Core that writes version 1.",
        )
    if code not in DTYPES:
        raise refused(
            index,
            f"values of type code {code}",
            "a code of whole numbers: "
            + ", ".join(f"{number} ({name})" for number, name in DTYPES.items()),
            "Token ids are whole numbers: correct the path, or write the files again.",
        )
    # 12 bytes a sequence: a length of 4 and a pointer of 8.
    wanted = HEADER.size + 12 * sequences + 8 * documents
    # Multimodal writers append one byte a sequence, and say so nowhere else.
    if size == wanted + sequences and sequences:
        raise refused(
            index,
            "a mode for each sequence",
            "the index of a dataset of text alone",
            "Multimodal datasets are not read; write the text without modes.",
        )
    if size != wanted:
        raise refused(
            index,
            f"{size} bytes",
            f"{wanted} bytes for {sequences} sequences and {documents} document indices",
            WRITE_AGAIN,
        )
    return DTYPES[code], sequences, documents


def _document_ends(
    index: Path, tokens: Path, dtype: str, sequences: int, documents: int
) -> NDArray[np.uint64]:
    """Check the index against the ids; return the ends without those of empty documents.

    Every sequence must begin where the one before ends, as all of Megatron's writers leave it:
    only then is the file one stream.
    """
    lengths = map_array(index, "int32", sequences, offset_bytes=HEADER.size)
    pointers = map_array(index, "int64", sequences, offset_bytes=HEADER.size + 4 * sequences)
    limits = map_array(index, "int64", documents, offset_bytes=HEADER.size + 12 * sequences)
    itemsize = np.dtype(dtype).itemsize
    sequence_ends = np.zeros(sequences + 1, np.int64)
    # Lengths and pointers stay mapped and are read in one pass; only the ends are held whole.
    for start in range(0, sequences, CHUNK):
        chunk = lengths[start : start + CHUNK].astype(np.int64)
        # Before the pointers, which agree with a negative length if they were summed from it.
        if chunk.min() < 0:
            number = start + int(np.flatnonzero(chunk < 0)[0])
            raise refused(
                index,
                f"sequence {number} of {int(lengths[number])} tokens",
                "no negative length",
                WRITE_AGAIN,
            )
        ends = sequence_ends[start] + np.cumsum(chunk)
        sequence_ends[start + 1 : start + 1 + len(chunk)] = ends
        wrong = np.flatnonzero(pointers[start : start + CHUNK] != (ends - chunk) * itemsize)
        if len(wrong):
            number = start + int(wrong[0])
            raise refused(
                index,
                f"sequence {number} at byte {int(pointers[number])}",
                f"byte {int(sequence_ends[number]) * itemsize}, where the one before ends",
                WRITE_AGAIN,
            )
    size, wanted = tokens.stat().st_size, int(sequence_ends[-1]) * itemsize
    if size != wanted:
        raise refused(
            tokens,
            f"{size} bytes",
            f"{wanted} bytes: {int(sequence_ends[-1])} ids of type {dtype}, as {index.name} says",
            WRITE_AGAIN,
        )
    _check_limits(index, limits, sequences)
    # The limits are indices here, and known by now to lie in [0, sequences] and never to fall.
    ends, _ = check_ends(index, sequence_ends[limits[1:]].astype(np.uint64))
    return ends.astype(np.uint64, copy=False)


def _check_limits(index: Path, limits: NDArray[np.integer], sequences: int) -> None:
    """Refuse document indices that do not cut all sequences into runs."""
    found = None
    if not len(limits) or limits[0] != 0:
        found = f"document indices that begin with {int(limits[0]) if len(limits) else 'nothing'}"
        expected = "0"
    elif limits[-1] != sequences:
        found = f"document indices that end with {int(limits[-1])}"
        expected = f"{sequences}, the number of sequences"
    else:
        # Equal neighbours are documents of no sequence, which are left out later.
        falls = np.flatnonzero(np.diff(limits) < 0)
        if len(falls):
            number = int(falls[0])
            found = f"document {number} from sequence {int(limits[number])} to "
            found += str(int(limits[number + 1]))
            expected = "indices that never fall"
    if found is not None:
        raise refused(index, found, expected, WRITE_AGAIN)
