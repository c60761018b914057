"""Records of tokens on disk for ``distrain data inspect`` and ``verify``."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distrain.data.adapters import ADAPTERS
from distrain.data.adapters.foreign import ForeignShard, first_unsorted
from distrain.data.adapters.opening import (
    ForeignTokens,
    bad_id_error,
    ends_with_eos,
    find_bad_id,
    open_files,
)
from distrain.data.remote.cache.remote_store import RemoteStore
from distrain.data.remote.published import read_published, read_source_manifest
from distrain.data.shards.digests import FileRecord
from distrain.data.shards.manifest import MANIFEST, TEST_SPLIT, Manifest
from distrain.data.shards.reader import ShardedTokens, Split
from distrain.data.shards.verification import MAX_THREADS, check_files, damaged
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import DataError
from distrain.tools.targets import RAW, ForeignFiles, SourceFolder

Record = dict[str, Any]

QUANTILES = {"min": 0.0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
MAX_LENGTHS = 4_000_000
"""Documents whose lengths are looked at; of more, as many are taken evenly."""
SAMPLED_TOKENS = 1 << 22
STRETCH = 1 << 16
TOP_TOKENS = 10
TIMEOUT_S = 60.0
"""For each file at a URL; who waits for it is a person."""


def describe_place(place: SourceFolder, tokenizer: Tokenizer | None, manifest: Manifest) -> Record:
    """Describe one source in one split; of the test split, what its manifest says and no more."""
    # A copy that was published to a folder has other files than its manifest names.
    if manifest.storage == RAW:
        check_files(place.path, manifest.files, verify=False)
    record = describe_manifest(str(place.path), manifest)
    if manifest.split == TEST_SPLIT or manifest.storage != RAW:
        return record  # counts are all that is known without opening it
    split = place.open(manifest, "data inspect")
    counted = int(split.token_counts.sum())
    return record | _lengths(split) | {"top_tokens": _top(split.token_counts, counted, tokenizer)}


def describe_published(store: RemoteStore) -> Iterator[Record]:
    """Describe what was published at a store: what its manifests say.

    Raises:
        DataError: Nothing was published there, or it cannot be read.
    """
    for split, names in read_published(store, timeout_s=TIMEOUT_S).items():
        for name in names:
            manifest = read_source_manifest(store, split, name, timeout_s=TIMEOUT_S)
            yield describe_manifest(store.below(split, name).url, manifest)


def describe_manifest(path: str, manifest: Manifest) -> Record:
    """Return the record of a source that its manifest alone gives."""
    return {
        "path": path,
        "format": "distrain",
        "split": manifest.split,
        "source": manifest.source,
        "tokens": manifest.tokens,
        "documents": manifest.documents,
        "bytes": sum(file.size_bytes for file in manifest.files.values()),
        "text_bytes": manifest.text_bytes,
        "dtype": manifest.dtype,
        "vocab_size": manifest.vocab_size,
        "eos_id": manifest.eos_id,
        "tokenizer": manifest.tokenizer,
        "encoder": manifest.encoder,
        "pairs": manifest.pairs,
        "inputs": manifest.inputs,
        "columns": manifest.columns,
        "storage": manifest.storage,
        "digest": manifest.digest,
        "shards": [asdict(shard) | _files_of(manifest, shard.name) for shard in manifest.shards],
    }


def describe_foreign(target: ForeignFiles) -> Record:
    """Describe foreign token files: counts in full, frequencies on a sample."""
    stream = open_foreign(target)
    # A sample: frequencies are to show what is wrong at a glance, and files are terabytes.
    counts = _sampled_counts(stream)
    record: Record = {
        "path": str(target.files[0] if len(target.files) == 1 else target.files[0].parent),
        "format": target.token_format,
        "tokens": stream.num_tokens,
        "documents": stream.num_documents,
        "bytes": sum(shard.path.stat().st_size for shard in stream.shards),
        "dtype": ", ".join(sorted({shard.dtype for shard in stream.shards})),
        "vocab_size": stream.vocab_size,
        "eos_id": stream.eos_id,
        "tokenizer": target.tokenizer.fingerprint if target.tokenizer is not None else None,
        "shards": [
            {
                "name": shard.path.name,
                "tokens": shard.num_tokens,
                "documents": shard.num_documents,
                "bytes": shard.path.stat().st_size,
                "remarks": list(shard.remarks),
            }
            for shard in stream.shards
        ],
        "highest_sampled_id": len(counts) - 1,
        "sampled_tokens": int(counts.sum()),
    }
    if stream.eos_id is not None:
        matching, count, _ = ends_with_eos(stream, stream.eos_id)
        record["sampled_documents"], record["ending_with_eos"] = count, matching
    top = _top(counts, int(counts.sum()), target.tokenizer)
    return record | _lengths(stream) | {"top_tokens": top}


def open_foreign(target: ForeignFiles) -> ForeignTokens:
    """Open foreign files as one stream; raises what ``open_files`` raises."""
    return open_files(
        target.token_format,
        [str(file) for file in target.files],
        target.reading,
        vocab_size=None if target.tokenizer is None else target.tokenizer.vocab_size,
    )


@dataclass(frozen=True)
class Verified:
    """The result of reading a part again.

    Args:
        files: That were read.
        damaged: The errors, each naming a file.
    """

    path: Path
    files: int
    size_bytes: int
    damaged: list[DataError]


def verify_place(place: SourceFolder) -> Verified:
    """Read every file of a source again: digests, ids, document ends.

    The content of the test split is compared with its digests and not looked at.

    Raises:
        DataError: It is a published copy, whose blocks are compressed.
    """
    try:
        manifest = place.read_manifest()
    except DataError as error:
        return Verified(place.path, 1, 0, [error])
    place.require_raw(manifest)
    problems = list(_damaged_files(place.path, manifest))
    # What the files hold is looked at only if they are what was written: the rest would follow.
    if not problems and manifest.split != TEST_SPLIT:
        try:
            problems = list(_wrong_content(place.open(manifest, "data verify")))
        except DataError as error:  # files that are what was written, but do not fit each other
            problems = [error]
    size = sum(record.size_bytes for record in manifest.files.values())
    return Verified(place.path, len(manifest.files) + 1, size, problems)


def verify_foreign(target: ForeignFiles) -> Iterator[Verified]:
    """Read foreign files one by one: form, document ends, every id."""
    vocab_size = None if target.tokenizer is None else target.tokenizer.vocab_size
    for file in target.files:
        problems: list[DataError] = []
        try:
            shard = ADAPTERS[target.token_format].open_shard(file, target.reading)
            problems = _wrong_ids(shard, vocab_size)
        except DataError as error:
            problems = [error]
        size = file.stat().st_size if file.is_file() else 0
        yield Verified(file, 1, size, problems)


def _wrong_ids(shard: ForeignShard, vocab_size: int | None) -> list[DataError]:
    bad = find_bad_id(ShardedTokens([shard], eos_id=None), 0, vocab_size)
    return [] if bad is None else [bad_id_error(shard.path, bad, vocab_size)]


def _damaged_files(folder: Path, manifest: Manifest) -> Iterator[DataError]:
    def check(entry: tuple[str, FileRecord]) -> DataError | None:
        try:
            # One file a call, so that all damaged ones are named and not only the first.
            check_files(folder, dict([entry]), verify=True, block_bytes=manifest.block_bytes)
        except DataError as error:
            return error
        return None

    with ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="verify") as executor:
        yield from filter(None, executor.map(check, manifest.files.items()))


def _wrong_content(split: Split) -> Iterator[DataError]:
    """Find what the digests cannot: that other bytes than whole documents were written."""
    manifest = split.manifest
    for number, record in enumerate(manifest.shards):
        tokens = split.path / f"{record.name}.bin"
        bad = find_bad_id(split, number, manifest.vocab_size)
        if bad is not None:
            yield bad_id_error(tokens, bad, manifest.vocab_size)
        ends = split.shards[number].ends.astype(np.int64)
        # Before the ends are used: a fall would make the look-up below read other documents.
        place = first_unsorted(ends)
        if place is not None:
            found = f"end {place} of a document not above the one before"
            yield damaged(split.path / f"{record.name}.idx", found)
            continue
        whole = split.shards[number].tokens(0, record.tokens)
        open_ended = np.flatnonzero(whole[ends - 1] != manifest.eos_id)
        if len(open_ended):
            yield damaged(
                tokens, f"document {int(open_ended[0])} of the shard not ending in eos_id"
            )
    if split.num_tokens != manifest.tokens or split.num_documents != manifest.documents:
        found = f"{split.num_tokens} tokens in {split.num_documents} documents"
        wanted = f"{manifest.tokens} in {manifest.documents}"
        yield damaged(split.path / MANIFEST, f"{found} in the shards, where it counts {wanted}")


def _files_of(manifest: Manifest, shard: str) -> Record:
    names = [name for name in manifest.files if name.partition(".")[0] == shard]
    return {"bytes": sum(manifest.files[name].size_bytes for name in names)}


def _lengths(stream: ShardedTokens) -> Record:
    """Return quantiles of the documents' lengths in tokens, exact up to ``MAX_LENGTHS`` of them."""
    # Evenly over the stream: the first millions may all be of one source.
    step = -(-stream.num_documents // MAX_LENGTHS)
    parts: list[NDArray[np.int64]] = []
    for shard in stream.shards:
        ends = shard.ends
        chosen = np.arange(0, len(ends), step)
        begins = np.where(chosen > 0, ends[np.maximum(chosen - 1, 0)], 0)
        parts.append(ends[chosen].astype(np.int64) - begins.astype(np.int64))
    lengths = np.concatenate(parts) if parts else np.empty(0, np.int64)
    if not len(lengths):
        return {"lengths": None, "lengths_of": 0}
    values = np.quantile(lengths, list(QUANTILES.values()), method="lower")
    quantiles = {name: int(value) for name, value in zip(QUANTILES, values, strict=True)}
    return {
        "lengths": quantiles | {"mean": round(float(lengths.mean()), 1)},
        "lengths_of": len(lengths),
    }


def _sampled_counts(stream: ShardedTokens) -> NDArray[np.int64]:
    """Count ids in stretches taken evenly from the stream: all of it if it is short."""
    pieces = max(1, min(SAMPLED_TOKENS, stream.num_tokens) // STRETCH)
    if stream.num_tokens <= SAMPLED_TOKENS:
        return np.bincount(stream.tokens(0, stream.num_tokens))
    counts = np.zeros(1, np.int64)
    for start in np.linspace(0, stream.num_tokens - STRETCH, pieces).astype(np.int64).tolist():
        found = np.bincount(stream.tokens(start, start + STRETCH), minlength=len(counts))
        # The new stretch may hold higher ids than all before, never a shorter array.
        found[: len(counts)] += counts
        counts = found
    return counts


def _top(counts: NDArray[np.int64], total: int, tokenizer: Tokenizer | None) -> Sequence[Record]:
    most = np.argsort(-counts, kind="stable")[:TOP_TOKENS]
    return [
        {
            "id": token,
            "count": int(counts[token]),
            "share": round(int(counts[token]) / max(1, total), 5),
            "name": tokenizer.name_of(token) if tokenizer is not None else None,
        }
        for token in most.tolist()
        if counts[token]
    ]
