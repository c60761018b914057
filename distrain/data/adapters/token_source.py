"""A recipe's source of ready tokens: what a stage asks for, and what it is given."""

from pathlib import Path

import numpy as np
import xxhash

from distrain.config.token_sources import TokenSource
from distrain.data.adapters.foreign import EndsCache, Reading
from distrain.data.adapters.opening import open_files
from distrain.data.adapters.splits import split_stream
from distrain.data.manifest import MAIN_SOURCE, check_access, list_sources
from distrain.data.shards import ShardedTokens, Split, open_split
from distrain.data.tokenizer import Tokenizer
from distrain.errors import DataError

SAMPLED_TOKENS = 4096


def open_token_source(
    source: TokenSource, split: str, *, stage_kind: str, cache: Path | None = None
) -> ShardedTokens:
    """Open one split of ready tokens; nothing is copied.

    Args:
        source: The section of the recipe.
        split: ``train``, ``validation``, or ``test`` (for a stage of kind ``evaluate`` only).
        stage_kind: Kind of the stage that wants to read.
        cache: Folder beside the run that keeps document ends which took a pass over the files.

    Raises:
        PreflightError: The test split is asked for by another stage than ``evaluate``.
        DataError: Files are missing, damaged, or not what the section says.
    """
    check_access(source.paths[0], split, MAIN_SOURCE, stage_kind=stage_kind)
    tokenizer = tokenizer_of(source)
    if source.format == "distrain":
        return _open_prepared(source, split, tokenizer, stage_kind=stage_kind)
    eos_id = source.eos_id
    if eos_id is None and tokenizer is not None:
        eos_id = tokenizer.eos_id
    stream = open_files(
        source.format,
        source.paths,
        Reading(source.dtype, eos_id, EndsCache(cache)),
        vocab_size=None if tokenizer is None else tokenizer.vocab_size,
    )
    return split_stream(stream, source.validation_fraction, source.test_fraction)[split]


def tokenizer_of(source: TokenSource) -> Tokenizer | None:
    """Load the tokenizer that the section names, if any."""
    if source.tokenizer is None:
        return None
    return Tokenizer.load(Path(source.tokenizer).expanduser())


def stream_digest(stream: ShardedTokens) -> str:
    """Return what stands for a stream in a checkpoint: it differs if another one is read.

    All document ends are hashed, of the ids only the first and last 4,096 of each shard: enough
    to notice files that were exchanged, and milliseconds for any size. Paths do not count.
    """
    digest = xxhash.xxh3_128(repr((stream.eos_id, len(stream.shards))).encode())
    for shard in stream.shards:
        tail = max(0, shard.num_tokens - SAMPLED_TOKENS)
        digest.update(repr((shard.num_tokens, shard.num_documents)).encode())
        digest.update(np.ascontiguousarray(shard.ends, "<u8").tobytes())
        for ids in (shard.tokens(0, SAMPLED_TOKENS), shard.tokens(tail, shard.num_tokens)):
            digest.update(ids.astype("<i8").tobytes())
    return digest.hexdigest()


def _open_prepared(
    source: TokenSource, split: str, tokenizer: Tokenizer | None, *, stage_kind: str
) -> ShardedTokens:
    """Put the sources of other runs' prepare stages in a row; they keep their own splits."""
    found: list[Split] = []
    for pattern in source.paths:
        folder = Path(pattern).expanduser()
        names = list_sources(folder, split) or [MAIN_SOURCE]  # what is missing is then named
        found += [
            open_split(folder, split, name, stage_kind=stage_kind, verify=False) for name in names
        ]
    expected = found[0].manifest.tokenizer if tokenizer is None else tokenizer.fingerprint
    for part in found:
        if part.manifest.tokenizer != expected:
            raise DataError(
                str(part.path),
                f"tokens of the tokenizer {part.manifest.tokenizer[:12]}",
                f"those of {expected[:12]}, "
                + (f"as in {found[0].path}" if tokenizer is None else f"{source.tokenizer}"),
                "Leave one of them out: their ids mean different texts.",
            )
    return ShardedTokens([shard for part in found for shard in part.shards], eos_id=found[0].eos_id)
