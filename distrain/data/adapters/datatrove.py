"""datatrove's tokenized files: ids in ``NAME.ds``, document ends in ``NAME.ds.index``.

The form is that of ``datatrove/pipeline/tokens/tokenizer.py: TokenizedFile``: ids of 2 or 4 bytes
without a header, ends as uint64, all little-endian. ``NAME.ds.metadata`` is optional and says
``tokenizer|bytes of one id``, then the number of tokens. ``NAME.ds.loss``, a loss mask, is ignored.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distrain.data.adapters.foreign import (
    ForeignShard,
    Reading,
    check_dtype,
    check_ends,
    empty_remark,
    refused,
    size_of,
)
from distrain.data.shards.reader import map_array

ENDINGS = (".ds",)
DTYPES = {2: "uint16", 4: "uint32"}
"""Bytes of one id -> its type."""
WRITE_AGAIN = "The files are damaged: restore them from a copy, or tokenize again."


@dataclass(frozen=True)
class Metadata:
    """The content of ``NAME.ds.metadata``."""

    tokenizer: str
    token_bytes: int
    tokens: int


def locate(path: Path) -> Path | None:
    """Return the ``.ds`` that ``path`` stands for: itself, or the one that its index is of."""
    name = path.name
    for ending in (".index", ".metadata", ".loss"):
        name = name.removesuffix(ending)
    return path.with_name(name) if name.endswith(".ds") else None


def open_shard(path: Path, reading: Reading) -> ForeignShard:
    """Open one ``.ds`` with its index.

    Raises:
        DataError: A file is missing or damaged, or they do not fit each other.
    """
    index = path.with_name(f"{path.name}.index")
    size = size_of(path, "ids that datatrove wrote", "Correct the path.")
    index_size = size_of(
        index,
        "the document ends that datatrove writes with save_index",
        f"Put it beside {path.name}, or read the ids alone: format npy, with dtype and eos_id.",
    )
    documents, rest = divmod(index_size, 8)
    if rest:
        raise refused(
            index, f"{index_size} bytes", "a multiple of 8: one uint64 a document", WRITE_AGAIN
        )
    # The index counts the ids. Their file has no header, so only this count, held against its size,
    # shows how wide one id is.
    ends, dropped = check_ends(index, map_array(index, "uint64", documents))
    num_tokens = int(ends[-1]) if len(ends) else 0
    metadata = _read_metadata(path.with_name(f"{path.name}.metadata"))
    token_bytes = _token_bytes(path, size, num_tokens, metadata)
    dtype = DTYPES[token_bytes]
    if reading.dtype is not None and np.dtype(reading.dtype).itemsize == token_bytes:
        dtype = reading.dtype  # the file knows the size only: int32 is as good as uint32
    check_dtype(path, dtype, reading)
    remarks = list(empty_remark(dropped))
    if metadata is not None:
        remarks.append(f"tokenizer {metadata.tokenizer}")
    if path.with_name(f"{path.name}.loss").exists():
        remarks.append("its loss mask is left out")
    return ForeignShard(path, dtype, ends, remarks=tuple(remarks))


def _token_bytes(path: Path, size: int, num_tokens: int, metadata: Metadata | None) -> int:
    """Return the bytes of one id, on which the ids, the index and the metadata must agree."""
    said = metadata.token_bytes if metadata is not None else None
    fitting = [width for width in DTYPES if size == num_tokens * width]
    if not fitting or (said is not None and said not in fitting):
        widths = [said] if said is not None else list(DTYPES)
        raise refused(
            path,
            f"{size} bytes",
            " or ".join(f"{num_tokens * width} bytes" for width in widths)
            + f": the index counts {num_tokens} ids"
            + (f", the metadata says {said} bytes each" if said is not None else ""),
            WRITE_AGAIN,
        )
    # Optional, but if it is there, it has to agree: files of two runs may have been mixed.
    if metadata is not None and metadata.tokens != num_tokens:
        raise refused(
            path.with_name(f"{path.name}.metadata"),
            f"{metadata.tokens} tokens",
            f"{num_tokens}, as the index counts",
            WRITE_AGAIN,
        )
    # Both widths fit only where there is no id, and then the width does not matter.
    return fitting[0]


def _read_metadata(path: Path) -> Metadata | None:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return None
    # Padded, so that a file cut short is refused below like any other that says nothing.
    first, count = [*lines, "", ""][:2]
    # From the right: the name of a tokenizer may hold the sign itself.
    tokenizer, _, token_bytes = first.rpartition("|")
    if token_bytes not in {str(width) for width in DTYPES} or not count.isdecimal():
        raise refused(
            path,
            f"the lines {lines[:2]}",
            "NAME|2 or NAME|4, and the number of tokens",
            "Remove the file (it is optional), or restore it from a copy.",
        )
    return Metadata(tokenizer, int(token_bytes), int(count))
