"""A recipe's source of ready tokens: what a stage asks for, and what it is given."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from distrain.config.data import MAIN_SOURCE, SPLITS
from distrain.config.huggingface import TOKENIZER_FILE
from distrain.config.token_sources import TokenSource, is_url
from distrain.data.adapters.foreign import EndsCache, Reading
from distrain.data.adapters.opening import ForeignTokens, open_files
from distrain.data.adapters.splits import split_stream
from distrain.data.remote.cache.block_cache import BlockCache
from distrain.data.remote.cache.remote_store import RemoteStore
from distrain.data.remote.published import (
    list_remote_sources,
    read_source_manifest,
    read_tokenizer_files,
)
from distrain.data.remote.shards import RemoteSplit, open_remote_split
from distrain.data.shards.manifest import (
    TEST_SPLIT,
    Manifest,
    check_access,
    check_split,
    list_sources,
)
from distrain.data.shards.reader import ShardedTokens, Split, open_split
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import DataError
from distrain.runs.durable import whole_file

SAMPLED_TOKENS = 4096
TIMEOUT_S = 300.0
"""For each manifest of a published split, all attempts together."""


class PreparedTokens(ShardedTokens):
    """Sources that prepare stages wrote, one after the other, here or at a URL."""

    def __init__(self, parts: Sequence[Split | RemoteSplit]) -> None:
        shards = [shard for part in parts for shard in part.shards]
        super().__init__(shards, eos_id=parts[0].eos_id)
        self.parts = parts
        self.manifests = tuple(part.manifest for part in parts)

    def recorded_counts(self) -> NDArray[np.int64]:
        """Return how often each id occurs in all of them, shape (V,)."""
        total: NDArray[np.int64] = np.sum([part.recorded_counts() for part in self.parts], axis=0)
        return total


def open_token_source(
    source: TokenSource,
    split: str,
    *,
    stage_kind: str,
    ends: Path | None = None,
    blocks: BlockCache | None = None,
) -> ShardedTokens:
    """Open one split of ready tokens; nothing is copied.

    Args:
        source: The section of the recipe.
        split: ``train``, ``validation``, or ``test`` (for a stage of kind ``evaluate`` only).
        stage_kind: Kind of the stage that wants to read.
        ends: Folder beside the run that keeps document ends which took a pass over the files.
        blocks: Of the node, for URLs; default: one with default settings.

    Raises:
        PreflightError: The test split is asked for by another stage than ``evaluate``.
        DataError: Files are missing, damaged, or not what the section says.
    """
    # Before any file is touched: a refused split must not even be looked at.
    check_access(source.paths[0], split, MAIN_SOURCE, stage_kind=stage_kind)
    if source.is_prepared:
        return _open_prepared(source, split, blocks, stage_kind=stage_kind)
    stream = _open_foreign(source, ends)
    return split_stream(stream, source.validation_fraction, source.test_fraction)[split]


def tokenizer_of(source: TokenSource) -> Tokenizer | None:
    """Load the tokenizer that the section names, if any."""
    if source.tokenizer is None:
        return None
    return Tokenizer.load(Path(source.tokenizer).expanduser())


def tokenizer_file(source: TokenSource, index: Path) -> Path:
    """Return where a source's tokenizer lies; from a URL it is fetched into ``index``.

    Raises:
        DataError: It cannot be fetched.
    """
    if source.tokenizer is not None:
        return Path(source.tokenizer).expanduser()
    path = source.paths[0]
    if not is_url(path):
        return Path(path).expanduser() / TOKENIZER_FILE
    files = read_tokenizer_files(open_store(source, path), timeout_s=TIMEOUT_S)
    for name, content in files.items():
        with whole_file(index / name) as stream:
            stream.write(content)
    return index / TOKENIZER_FILE


def content_digest(stream: ShardedTokens) -> str:
    """Return what stands for a stream in a checkpoint: equal for the same data, here or remote."""
    # What has a manifest was hashed when it was written, every byte of it.
    return _digest_of(stream.manifests) if stream.manifests else stream_digest(stream)


def stream_digest(stream: ShardedTokens) -> str:
    """Return the digest of a stream without a manifest: it differs if another one is read.

    All document ends are hashed, of the ids only the first and last 4,096 of each shard: enough
    to notice files that were exchanged, and milliseconds for any size. Paths do not count.
    """
    digest = xxhash.xxh3_128(repr((stream.eos_id, len(stream.shards))).encode())
    for shard in stream.shards:
        tail = max(0, shard.num_tokens - SAMPLED_TOKENS)
        digest.update(repr((shard.num_tokens, shard.num_documents)).encode())
        # Widened to one type, so that the same ids in files of another type are the same data.
        digest.update(np.ascontiguousarray(shard.ends, "<u8").tobytes())
        for ids in (shard.tokens(0, SAMPLED_TOKENS), shard.tokens(tail, shard.num_tokens)):
            digest.update(ids.astype("<i8").tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Measured:
    """Counts and digests of a source of ready tokens, by split.

    Args:
        digests: ``content_digest`` of each split that anybody but ``evaluate`` may open.
        text_bytes: Of the text that the tokens were made of; empty where nobody knows.
        tokenizer: Fingerprint of the one that made the ids; ``None``: unknown.
        vocab_size: Ids are below it; ``None``: unknown.
        eos_id: Ends documents; ``None``: unknown.
    """

    documents: Mapping[str, int]
    tokens: Mapping[str, int]
    text_bytes: Mapping[str, int]
    digests: Mapping[str, str]
    tokenizer: str | None
    vocab_size: int | None
    eos_id: int | None


def measure(source: TokenSource, *, ends: Path | None = None) -> Measured:
    """Look at all splits of a source, and verify what has digests; of the test split, only counts.

    Raises:
        DataError: Files are missing, damaged, or not what the section says.
    """
    if source.is_prepared:
        return _measure_prepared(source)
    stream = _open_foreign(source, ends)
    # Digests of the splits and not of the files: files added at the end change the cut of all
    # three.
    splits = split_stream(stream, source.validation_fraction, source.test_fraction)
    tokenizer = tokenizer_of(source)
    return Measured(
        {split: part.num_documents for split, part in splits.items()},
        {split: part.num_tokens for split, part in splits.items()},
        {},
        {split: stream_digest(part) for split, part in splits.items() if split != TEST_SPLIT},
        None if tokenizer is None else tokenizer.fingerprint,
        stream.vocab_size,
        stream.eos_id,
    )


def _measure_prepared(source: TokenSource) -> Measured:
    # Of the test split too, but only counts of it leave this function.
    found = {split: _manifests(source, split) for split in SPLITS}
    everything = [manifest for manifests in found.values() for manifest in manifests]
    _check_tokenizers(source, everything)
    return Measured(
        {split: sum(part.documents for part in parts) for split, parts in found.items()},
        {split: sum(part.tokens for part in parts) for split, parts in found.items()},
        {split: sum(part.text_bytes for part in parts) for split, parts in found.items()},
        {split: _digest_of(parts) for split, parts in found.items() if split != TEST_SPLIT},
        everything[0].tokenizer,
        everything[0].vocab_size,
        everything[0].eos_id,
    )


def _open_foreign(source: TokenSource, ends: Path | None) -> ForeignTokens:
    tokenizer = tokenizer_of(source)
    eos_id = source.eos_id
    if eos_id is None and tokenizer is not None:
        eos_id = tokenizer.eos_id
    return open_files(
        source.format,
        source.paths,
        Reading(source.dtype, eos_id, EndsCache(ends)),
        vocab_size=None if tokenizer is None else tokenizer.vocab_size,
    )


def _open_prepared(
    source: TokenSource, split: str, blocks: BlockCache | None, *, stage_kind: str
) -> PreparedTokens:
    """Put the sources of other runs' prepare stages in a row; they keep their own splits."""
    parts: list[Split | RemoteSplit] = []
    for path in source.paths:
        if is_url(path):
            # One cache for all URLs: its limits are those of the node.
            blocks = blocks or BlockCache()
            store = open_store(source, path)
            timeout_s = blocks.settings.stall_deadline_s
            parts += [
                open_remote_split(store, split, name, stage_kind=stage_kind, cache=blocks)
                for name in _names(source, path, split, timeout_s)
            ]
        else:
            folder = Path(path).expanduser()
            parts += [
                # Sizes only: ``measure`` has compared the digests, and every rank comes by here.
                open_split(folder, split, name, stage_kind=stage_kind, verify=False)
                for name in _names(source, path, split)
            ]
    _check_tokenizers(source, [part.manifest for part in parts])
    return PreparedTokens(parts)


def open_store(source: TokenSource, url: str) -> RemoteStore:
    """Return the store where published splits of a source lie."""
    return RemoteStore(url, source.storage_options)


def _manifests(source: TokenSource, split: str) -> list[Manifest]:
    """Read the manifests of one split; local files are compared with them."""
    found = []
    for path in source.paths:
        for name in _names(source, path, split):
            if is_url(path):
                store = open_store(source, path)
                found.append(read_source_manifest(store, split, name, timeout_s=TIMEOUT_S))
            else:
                found.append(check_split(Path(path).expanduser(), split, name))
    return found


def _names(
    source: TokenSource, path: str, split: str, timeout_s: float = TIMEOUT_S
) -> Sequence[str]:
    """Return which sources of a split are wanted; one that is missing is named when it is opened.

    Raises:
        DataError: A URL where nothing was published, or not this split.
    """
    if source.source is not None:
        return [source.source]
    if is_url(path):
        return list_remote_sources(open_store(source, path), split, timeout_s=timeout_s)
    return list_sources(Path(path).expanduser(), split) or [MAIN_SOURCE]


def _digest_of(manifests: Sequence[Manifest]) -> str:
    if len(manifests) == 1:
        return manifests[0].digest
    return hashlib.sha256(" ".join(part.digest for part in manifests).encode()).hexdigest()


def _check_tokenizers(source: TokenSource, manifests: Sequence[Manifest]) -> None:
    """Refuse to put ids of different meanings in a row.

    Raises:
        DataError: One was made by another tokenizer than the first, or than the one named.
    """
    tokenizer = tokenizer_of(source)
    # By fingerprint, not by vocabulary size: ids of two tokenizers of one size look alike, and a
    # model trained on both learns noise.
    expected = manifests[0].tokenizer if tokenizer is None else tokenizer.fingerprint
    for manifest in manifests:
        if manifest.tokenizer != expected:
            raise DataError(
                f"{manifest.split}/{manifest.source} of {', '.join(source.paths)}",
                f"tokens of the tokenizer {manifest.tokenizer[:12]}",
                f"those of {expected[:12]}, "
                + (
                    f"as in {manifests[0].split}/{manifests[0].source}"
                    if tokenizer is None
                    else f"{source.tokenizer}"
                ),
                "Leave one of them out: their ids mean different texts.",
            )
