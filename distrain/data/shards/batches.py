"""Batches of encoded documents on their way into shards: gathered, checked, ended."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from distrain.data.shards.files import Columns

RESERVED_COLUMNS = {"bin", "idx", "blocks", "paths"}
"""Endings of the files of a shard; those of columns lie beside them."""


@dataclass
class PendingDocuments:
    """Documents added one by one, until they make a batch."""

    ids: list[NDArray[np.int64]] = field(default_factory=list)
    tokens: int = 0
    text_bytes: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, ids: Sequence[int], text_bytes: int, name: str | None) -> None:
        """Append one."""
        self.ids.append(np.array(ids, np.int64))
        self.tokens += len(ids)
        self.text_bytes += text_bytes
        if name is not None:
            self.names.append(name)

    def joined(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return all their tokens, flat, and where each document ends in them."""
        return np.concatenate(self.ids), np.cumsum([len(ids) for ids in self.ids])


def end_documents(
    ids: NDArray[np.integer], ends: NDArray[np.integer], eos_id: int, dtype: np.dtype
) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """Put the token that ends a document after each.

    Args:
        ids: Tokens of all documents, flat.
        ends: Where each document ends in ``ids``.
        eos_id: The token.
        dtype: Of the result.

    Returns:
        The tokens, flat, and where each document ends in them, its last token included.
    """
    # Each document is moved by the end tokens of those before it, and longer by its own.
    ends_with_eos = ends.astype(np.int64) + np.arange(1, len(ends) + 1)
    tokens = np.empty(len(ids) + len(ends), dtype)
    is_text = np.ones(len(tokens), np.bool_)
    is_text[ends_with_eos - 1] = False
    tokens[is_text] = ids
    tokens[ends_with_eos - 1] = eos_id
    return tokens, ends_with_eos


def check_lengths(
    ids: NDArray[np.integer],
    ends: NDArray[np.integer],
    names: Sequence[str] | None,
    columns: Columns,
) -> None:
    """Compare what comes with a batch of documents, given where each ends in ``ids``.

    Raises:
        ValueError: The lengths do not fit, or a column has the name of a file's ending.
    """
    if ends[-1] != len(ids) or ends[0] < 0 or (ends[1:] < ends[:-1]).any():
        raise ValueError(f"documents that end at {ends[-1]} of {len(ids)} tokens, or overlap")
    lengths = {"names": len(names)} if names is not None else {}
    lengths |= {name: len(values) for name, values in columns.items()}
    for name, length in lengths.items():
        if length != len(ends):
            raise ValueError(f"{length} {name} for {len(ends)} documents")
        if name in RESERVED_COLUMNS or not name.isidentifier():
            raise ValueError(f"a column named {name!r}; expected a new identifier")
