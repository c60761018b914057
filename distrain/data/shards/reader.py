"""Layer 2's result as layer 3 reads it: the tokens of one source in one split, one long stream."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distrain.config.data import MAIN_SOURCE
from distrain.data.shards.manifest import TOKEN_COUNTS, Manifest, open_manifest
from distrain.data.shards.names import read_names
from distrain.data.shards.verification import damaged
from distrain.errors import DataError


class TokenShard(Protocol):
    """Tokens of whole documents, wherever they lie: a local file, a remote or foreign one."""

    num_tokens: int
    num_documents: int

    @property
    def ends(self) -> NDArray[np.integer]:
        """End of each document, in tokens of the shard; the last one is ``num_tokens``."""
        ...

    def tokens(self, start: int, stop: int) -> NDArray[np.integer]:
        """Return the tokens at [start, stop), within the shard; a view where that is possible."""
        ...


class MappedShard:
    """A shard in a local file, mapped and not read: all ranks of a machine share its pages.

    Args:
        tokens: The file of ids, little-endian.
        dtype: ``uint16``, ``uint32`` or ``int32``.
        ends: Of the documents.
        offset_bytes: Where the ids begin in the file.
    """

    def __init__(
        self, tokens: Path, dtype: str, ends: NDArray[np.integer], *, offset_bytes: int = 0
    ) -> None:
        self.num_tokens = int(ends[-1]) if len(ends) else 0
        self.num_documents = len(ends)
        self.ends = ends
        self._tokens = map_array(tokens, dtype, self.num_tokens, offset_bytes=offset_bytes)

    def tokens(self, start: int, stop: int) -> NDArray[np.integer]:
        """View the tokens at [start, stop)."""
        return self._tokens[start:stop]


class ShardedTokens:
    """Shards one after the other, as one stream of tokens and of documents.

    Args:
        shards: In the order of the stream.
        eos_id: Id that ends each document; ``None`` if documents end without one.
    """

    manifests: Sequence[Manifest] = ()
    """Of the sources that the shards are of, in their order; empty where nobody wrote any."""

    def __init__(self, shards: Sequence[TokenShard], *, eos_id: int | None) -> None:
        self.shards = shards
        self.eos_id = eos_id
        self.first_token = [0, *accumulate(shard.num_tokens for shard in shards)]
        self.first_document = [0, *accumulate(shard.num_documents for shard in shards)]

    @property
    def num_tokens(self) -> int:
        """Ends of documents included."""
        return self.first_token[-1]

    @property
    def num_documents(self) -> int:
        """Documents of the stream."""
        return self.first_document[-1]

    @property
    def splits(self) -> "Sequence[Split]":
        """The local splits that the shards are of, if these tell documents by name."""
        return ()

    def recorded_counts(self) -> NDArray[np.int64] | None:
        """Return how often each id occurs, shape (V,), where a manifest leads to the counts."""
        return None

    def name_of(self, document: int) -> str | None:
        """Return the name of a document; ``None`` where none was kept."""
        return None

    def pieces(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Cut [start, stop) of the stream at shards: (shard, first, end within it)."""
        stop = min(stop, self.num_tokens)
        parts = []
        # To the right: an empty shard begins at the same token as the one after it.
        number = bisect_right(self.first_token, start) - 1
        while start < stop:
            first, end = self.first_token[number], self.first_token[number + 1]
            parts.append((number, start - first, min(stop, end) - first))
            start, number = end, number + 1
        return parts

    def tokens(self, start: int, stop: int) -> NDArray[np.int64]:
        """Copy the tokens at [start, stop) of the whole stream; fewer where the stream ends."""
        parts = [self.shards[k].tokens(first, end) for k, first, end in self.pieces(start, stop)]
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)

    def document_span(self, number: int) -> tuple[int, int, int]:
        """Return a document's shard, and its first and end token within that."""
        if not 0 <= number < self.num_documents:
            raise IndexError(f"document {number} of {self.num_documents}")
        shard = bisect_right(self.first_document, number) - 1
        ends, within = self.shards[shard].ends, number - self.first_document[shard]
        return shard, int(ends[within - 1]) if within else 0, int(ends[within])

    def document(self, number: int) -> NDArray[np.int64]:
        """Copy the tokens of one document, its ending ``eos_id`` included."""
        shard, start, stop = self.document_span(number)
        return self.shards[shard].tokens(start, stop).astype(np.int64)


class Split(ShardedTokens):
    """The shards of a source in a split of the prepare stage. Made by ``open_split``."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        shards = [
            MappedShard(
                path / f"{shard.name}.bin",
                manifest.dtype,
                map_array(path / f"{shard.name}.idx", "uint64", shard.documents),
            )
            for shard in manifest.shards
        ]
        super().__init__(shards, eos_id=manifest.eos_id)
        self.path = path
        self.manifest = manifest
        self.manifests = (manifest,)
        self.token_counts: NDArray[np.int64] = np.load(path / TOKEN_COUNTS)
        """Occurrences of each id, shape (vocab_size,)."""

    @property
    def splits(self) -> "Sequence[Split]":
        """This one."""
        return (self,)

    def recorded_counts(self) -> NDArray[np.int64]:
        """Return ``token_counts``."""
        return self.token_counts

    def name_of(self, document: int) -> str | None:
        """Return the name of a document, from the file beside its shard."""
        shard, _, _ = self.document_span(document)
        names = read_names(self.path, self.manifest.shards[shard].name)
        return None if names is None else names[document - self.first_document[shard]]


def open_split(
    folder: Path, split: str, source: str = MAIN_SOURCE, *, stage_kind: str, verify: bool = True
) -> Split:
    """Open the tokens of a source in a split; raises what ``manifest.open_manifest`` raises.

    Args:
        folder: Of the prepare stage.
        split: ``train``, ``validation``, or ``test`` (for a stage of kind ``evaluate`` only).
        source: One of ``manifest.list_sources``.
        stage_kind: Kind of the stage that wants to read.
        verify: Compare the digest of every file, not only its size.
    """
    path, manifest = open_manifest(folder, split, source, stage_kind=stage_kind, verify=verify)
    return Split(path, manifest)


def check_tokenizer(split: Split, fingerprint: str) -> None:
    """Check that a split's ids are those of the tokenizer that a stage is about to use.

    Raises:
        DataError: They are another one's, so each id would mean another text.
    """
    # Ids below the vocabulary's size decode to something under any tokenizer: nothing else would
    # show.
    found = split.manifest.tokenizer
    if found != fingerprint:
        raise DataError(
            str(split.path),
            f"tokens made with the tokenizer {found[:12]}",
            f"those of the stage's own tokenizer, {fingerprint[:12]}",
            "Put the tokenizer.json back that made them, or remove the folder of the prepare stage "
            "and run it again.",
        )


def map_array(path: Path, dtype: str, length: int, *, offset_bytes: int = 0) -> NDArray[np.integer]:
    """Map ``length`` little-endian values of a file.

    Raises:
        DataError: The file is too short or, where nothing precedes the values, too long.
    """
    kind = np.dtype(dtype).newbyteorder("<")
    size, wanted = path.stat().st_size, offset_bytes + length * kind.itemsize
    if size < wanted or (not offset_bytes and size != wanted):
        raise damaged(path, f"{size} bytes for {length} values of {dtype}")
    # An empty file cannot be mapped.
    if not length:
        return np.empty(0, kind)
    mapped = np.memmap(path, dtype=kind, mode="r", shape=(length,), offset=offset_bytes)
    # A view without memmap's bookkeeping: slicing it is ten times cheaper.
    return mapped.view(np.ndarray)
