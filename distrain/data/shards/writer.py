"""Layer 2: write one source of one split, whole or not at all.

Everything goes into a folder of another name, the manifest last; renaming that folder is the
commit. A crash before leaves nothing that could be taken for a split. The bytes depend on the
documents and on ``shard_tokens`` alone, not on how the documents were cut into batches.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import tokenizers
from numpy.typing import NDArray

from distrain.data.shards.batches import PendingDocuments, check_lengths, end_documents
from distrain.data.shards.digests import BLOCK_BYTES, record_of
from distrain.data.shards.files import Columns, HashingFile
from distrain.data.shards.inputs import RecordedRange, read_inputs
from distrain.data.shards.manifest import (
    INPUTS,
    MANIFEST,
    PAIRS,
    TOKEN_COUNTS,
    Manifest,
    parse_manifest,
)
from distrain.data.shards.names import NAMES_ENDING, read_names
from distrain.data.shards.sequence import ShardSequence
from distrain.data.shards.verification import check_files
from distrain.data.tokenizer.encoders.encoder import UINT16_IDS
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import DataError
from distrain.runs.durable import move_folder, sync

PENDING_TOKENS = 1 << 20
"""Tokens of single documents that are gathered before they are written."""


@dataclass(frozen=True)
class DataOrigin:
    """Tokenizer, engine and digests that the manifest of a split records.

    Args:
        corpus: Digest of its documents and of the settings; see ``Manifest.corpus``.
        encoder: Engine that encodes, with its version.
        settings: Digest; see ``Manifest.settings``.
    """

    tokenizer: Tokenizer
    corpus: str
    encoder: str = f"tokenizers {tokenizers.__version__}"
    settings: str = ""


class ShardWriter:
    """Writes one source of a split; as a context, it leaves nothing behind unless committed.

    Args:
        target: ``<prepare>/<split>/<source>``: its names are those of source and split.
        origin: Recorded in the manifest.
        shard_tokens: Tokens of one shard, at most; a longer document makes a longer shard.
        has_pairs: Whether instruction pairs will be added.
        block_bytes: Size of the blocks with digests; a multiple of 4.
    """

    def __init__(
        self,
        target: Path,
        origin: DataOrigin,
        *,
        shard_tokens: int,
        has_pairs: bool = False,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        if block_bytes < 4 or block_bytes % 4:
            raise ValueError(f"blocks of {block_bytes} bytes; expected a multiple of 4")
        self.target = target
        self.origin = origin
        self.block_bytes = block_bytes
        self._folder = target.with_name(f".{target.name}.unfinished")
        # Left by an attempt that was killed; the stage's lock keeps a second writer away.
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        vocab_size = origin.tokenizer.vocab_size
        self._counts = np.zeros(vocab_size, np.int64)
        self._text_bytes = 0
        # By the vocabulary, not by the ids that occur: shards of one tokenizer have one type.
        dtype = np.dtype("<u2" if vocab_size <= UINT16_IDS else "<u4")
        self._sequence = ShardSequence(self._folder, dtype, shard_tokens, block_bytes)
        self._pending = PendingDocuments()
        self._inputs: list[RecordedRange] = []
        self._pairs = HashingFile(self._folder / PAIRS, block_bytes) if has_pairs else None
        self._num_pairs = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._sequence.abandon()
        if self._pairs is not None:
            self._pairs.abandon()
        # After a commit it has another name, and nothing is removed.
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):  # the split's folder, if no source is in it
            self.target.parent.rmdir()

    def begin_range(self, source: RecordedRange) -> None:
        """Note where the documents that follow come from; their number is filled in."""
        self._inputs.append(replace(source, documents=0))

    def add(self, ids: Sequence[int], text_bytes: int, name: str | None = None) -> None:
        """Append one document; the token that ends it is added here."""
        pending = self._pending
        pending.add(ids, text_bytes, name)
        self._count_in_range(1)
        if pending.tokens >= PENDING_TOKENS:
            self._write_pending()

    def add_batch(
        self,
        ids: NDArray[np.integer],
        ends: NDArray[np.integer],
        text_bytes: int,
        names: Sequence[str] | None = None,
        columns: Columns | None = None,
    ) -> None:
        """Append whole encoded documents, without any work for each of them but their bounds.

        Args:
            ids: All their tokens, flat, without those that end documents: these are added here.
            ends: Where each document ends in ``ids``.
            text_bytes: Of all of them together.
            names: Of the documents; for all documents of the source, or for none.
            columns: One value a document, by name; the same columns in each batch.

        Raises:
            DataError: An id is not in the vocabulary.
            ValueError: The lengths do not fit, or names or columns come only now and then.
        """
        # Documents that came one by one go before this batch.
        self._write_pending()
        self._count_in_range(len(ends))
        self._write(ids, ends, text_bytes, names, columns)

    def add_pair(self, pair: Mapping[str, str]) -> None:
        """Append one instruction pair, a JSON line."""
        assert self._pairs is not None, "made without pairs"
        self._pairs.write(json.dumps(pair, ensure_ascii=False).encode() + b"\n")
        self._num_pairs += 1

    @property
    def num_pairs(self) -> int:
        """Pairs added so far."""
        return self._num_pairs

    def adopt(self, finished: Path) -> None:
        """Take the shards of another writer as they are: linked, not read. Pairs stay behind.

        Args:
            finished: Folder of a committed source, of equal origin and block size.

        Raises:
            DataError: It is not whole (sizes are compared), or was made otherwise.
        """
        # Sizes only: the digests go into our manifest with the files, and readers compare them.
        part = self._open_part(finished, verify=False)
        self._sequence.link(part, finished)
        self._take_counts(part, finished)

    def extend(self, finished: Path) -> None:
        """Append the documents of another writer, copied into shards of this writer's size.

        Args:
            finished: Folder of a committed source, of equal origin. Pairs stay behind.

        Raises:
            DataError: It is not whole, or was made otherwise; digests are compared.
        """
        # Digests here: what is copied gets new ones, which would hide damage for ever.
        part = self._open_part(finished, verify=True)
        for shard in part.shards:
            tokens = np.fromfile(finished / f"{shard.name}.bin", self._sequence.dtype)
            ends = np.fromfile(finished / f"{shard.name}.idx", "<u8").astype(np.int64)
            columns = {
                name: np.fromfile(finished / f"{shard.name}.{name}", kind)
                for name, kind in part.columns.items()
            }
            self._sequence.append(tokens, ends, read_names(finished, shard.name) or [], columns)
        self._take_counts(part, finished)

    def commit(self) -> Manifest:
        """Make the source exist in its split, in place of anything that had its name."""
        # Order matters from here on: whatever the manifest names must be on the disk before it.
        self._write_pending()
        self._sequence.finish()
        counts = self._folder / TOKEN_COUNTS
        np.save(counts, self._counts)
        self._note(counts)
        if self._inputs:
            lines = "".join(f"{source.to_json()}\n" for source in self._inputs)
            (self._folder / INPUTS).write_text(lines, encoding="utf-8")
            self._note(self._folder / INPUTS)
        if self._pairs is not None:
            self._sequence.files[PAIRS] = self._pairs.close()
            self._pairs = None
        manifest = self._manifest()
        record = HashingFile(self._folder / MANIFEST)
        # Last of all files: a folder without it is no source.
        record.write(manifest.to_text().encode())
        record.close()
        sync(self._folder)
        # A crash between these two leaves no source of that name: the stage makes it again, and
        # never are files of two attempts side by side.
        shutil.rmtree(self.target, ignore_errors=True)
        move_folder(self._folder, self.target)
        return manifest

    def _note(self, path: Path) -> None:
        sync(path)
        self._sequence.files[path.name] = record_of(path.read_bytes(), self.block_bytes)

    def _count_in_range(self, count: int) -> None:
        if self._inputs:
            last = self._inputs[-1]
            self._inputs[-1] = replace(last, documents=last.documents + count)

    def _write_pending(self) -> None:
        pending, self._pending = self._pending, PendingDocuments()
        if pending.ids:
            names = pending.names or None
            self._write(*pending.joined(), pending.text_bytes, names, None)

    def _write(
        self,
        ids: NDArray[np.integer],
        ends: NDArray[np.integer],
        text_bytes: int,
        names: Sequence[str] | None,
        columns: Columns | None,
    ) -> None:
        if not len(ends):
            return
        columns = columns or {}
        check_lengths(ids, ends, names, columns)
        # Shows ids that are none without a pass of its own, before anything is written.
        counts = np.bincount(ids, minlength=len(self._counts))
        if len(counts) > len(self._counts):
            raise DataError(
                str(self.target),
                f"token id {len(counts) - 1} in a document",
                f"ids below {len(self._counts)}, the size of the tokenizer's vocabulary",
                "Encode with the tokenizer that the shards are made for.",
            )
        self._sequence.agree(
            names is not None,
            {name: values.dtype.newbyteorder("<").name for name, values in columns.items()},
        )
        eos_id = self.origin.tokenizer.eos_id
        counts[eos_id] += len(ends)
        self._counts += counts
        self._text_bytes += text_bytes
        tokens, ends_with_eos = end_documents(ids, ends, eos_id, self._sequence.dtype)
        self._sequence.append(tokens, ends_with_eos, names or (), columns)

    def _open_part(self, finished: Path, *, verify: bool) -> Manifest:
        self._write_pending()
        where = finished / MANIFEST
        part = parse_manifest(where.read_text(encoding="utf-8"), where)
        check_files(finished, part.files, verify=verify, block_bytes=part.block_bytes)
        found, wanted = _kind_of(part), _kind_of(self._manifest())
        if found != wanted:
            raise DataError(
                str(finished),
                f"shards of {found}",
                f"shards of {wanted}, like those they are put beside",
                "Remove the folder and make it again.",
            )
        if part.documents:
            has_names = any(name.endswith(NAMES_ENDING) for name in part.files)
            self._sequence.agree(has_names, part.columns)
        return part

    def _take_counts(self, part: Manifest, finished: Path) -> None:
        self._counts += np.load(finished / TOKEN_COUNTS)
        self._text_bytes += part.text_bytes
        self._inputs += read_inputs(finished)

    def _manifest(self) -> Manifest:
        return Manifest(
            split=self.target.parent.name,
            source=self.target.name,
            dtype="uint16" if self._sequence.dtype.itemsize == 2 else "uint32",
            tokens=sum(shard.tokens for shard in self._sequence.shards),
            documents=sum(shard.documents for shard in self._sequence.shards),
            text_bytes=self._text_bytes,
            vocab_size=len(self._counts),
            eos_id=self.origin.tokenizer.eos_id,
            tokenizer=self.origin.tokenizer.fingerprint,
            corpus=self.origin.corpus,
            pairs=self._num_pairs if PAIRS in self._sequence.files else None,
            shards=tuple(self._sequence.shards),
            files=self._sequence.files,
            encoder=self.origin.encoder,
            settings=self.origin.settings,
            inputs=len(self._inputs),
            columns=self._sequence.columns or {},
            block_bytes=self.block_bytes,
        )


def _kind_of(manifest: Manifest) -> dict[str, str | int]:
    return {
        "tokenizer": manifest.tokenizer,
        "eos_id": manifest.eos_id,
        "vocab_size": manifest.vocab_size,
        "encoder": manifest.encoder,
        "settings": manifest.settings,
        "block_bytes": manifest.block_bytes,
    }
