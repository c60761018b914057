"""Phase *encode*: the kept documents of one range -> shards of each split, and pairs."""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from distrain.config.data import SPLITS, PairsConfig
from distrain.data.chats.docstrings import docstring_pairs
from distrain.data.corpus.cleaned import CleanedBatch, read_batches
from distrain.data.corpus.clusters import Reason
from distrain.data.corpus.plan import PlannedRange
from distrain.data.corpus.work_folder import WorkFolder
from distrain.data.shards.inputs import RecordedFile, RecordedRange
from distrain.data.shards.writer import DataOrigin, ShardWriter
from distrain.data.tokenizer.encoders.choose import open_encoder
from distrain.data.tokenizer.encoders.encoder import Encoder
from distrain.data.tokenizer.encoders.report import EngineReport
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.runs.durable import name_file
from distrain.runs.records import read_json, write_json


@dataclass(frozen=True)
class EncodeSettings:
    """Settings that all ranges are encoded with.

    Args:
        tokenizer: Its file.
        corpus: See ``Manifest.corpus``.
        settings: See ``Manifest.settings``.
        splits: Those that are made.
        pairs: ``None`` if none are asked for.
        threads: Of the engine.
    """

    tokenizer: Path
    engine: EngineReport
    corpus: str
    settings: str
    splits: tuple[str, ...]
    shard_tokens: int
    pairs: PairsConfig | None
    threads: int = 1

    def to_record(self) -> dict[str, Any]:
        """Return what must be equal for a finished range to be taken."""
        fingerprint = load_engine(self.tokenizer, self.engine, self.threads)[0].fingerprint
        return {
            "tokenizer": fingerprint,
            "engine": f"{self.engine.engine} {self.engine.version}",
            "corpus": self.corpus,
            "splits": list(self.splits),
        }

    def origin(self) -> DataOrigin:
        """Return the origin that the manifests of all shards record."""
        tokenizer, encoder = load_engine(self.tokenizer, self.engine, self.threads)
        return DataOrigin(
            tokenizer, self.corpus, f"{encoder.name} {encoder.version}", self.settings
        )


@lru_cache(maxsize=1)
def load_engine(path: Path, engine: EngineReport, threads: int) -> tuple[Tokenizer, Encoder]:
    """Load tokenizer and engine, once in a process."""
    # A worker encodes many ranges, and loading takes an engine up to seconds.
    tokenizer = Tokenizer.load(path)
    return tokenizer, open_encoder(engine, tokenizer.content, threads=threads)


@dataclass(frozen=True)
class EncodeJob:
    """Encodes one range; a job for ``WorkerPool``.

    Args:
        first: Place of the range's first document in the masks.
        documents: In the range.
    """

    settings: EncodeSettings
    planned: PlannedRange
    work: Path
    first: int
    documents: int

    @property
    def title(self) -> str:
        """See ``Job``."""
        return f"encoding {self.planned.title}"

    def run(self) -> None:
        """Write the shards of each split, the pairs of all, then the record."""
        work = WorkFolder(self.work)
        mask = np.load(work.masks, mmap_mode="r")[self.first : self.first + self.documents]
        # What an attempt that was cut short left; without the record it counts for nothing.
        shutil.rmtree(work.shards(self.planned), ignore_errors=True)
        origin = self.settings.origin()
        _, encoder = load_engine(
            self.settings.tokenizer, self.settings.engine, self.settings.threads
        )
        with ExitStack() as stack:
            writers = {
                split: stack.enter_context(self._writer(work, split, origin))
                for split in self.settings.splits
            }
            pairs = stack.enter_context(_PairsFile(work.pairs(self.planned)))
            for batch in read_batches(work.documents(self.planned)):
                # All splits in one pass over the texts, which are decompressed once.
                kept = mask[batch.first : batch.first + len(batch.texts)] == Reason.KEPT
                for split, writer in writers.items():
                    chosen = np.flatnonzero(kept & (batch.splits == SPLITS.index(split)))
                    _add(writer, batch, chosen, encoder)
                if self.settings.pairs is not None:
                    pairs.add(batch, kept, self.settings.pairs)
            for writer in writers.values():
                writer.commit()
            pairs.close()
        # Last, and with the settings: a range made with others is made again.
        write_json(work.encoded_record(self.planned), self.settings.to_record())

    def _writer(self, work: WorkFolder, split: str, origin: DataOrigin) -> ShardWriter:
        source = self.planned.source
        target = work.shards(self.planned) / split / source
        writer = ShardWriter(target, origin, shard_tokens=self.settings.shard_tokens)
        writer.begin_range(inputs_of(self.planned))
        return writer


def is_encoded(work: WorkFolder, planned: PlannedRange, settings: EncodeSettings) -> bool:
    """Return whether the range was encoded with these settings."""
    return read_json(work.encoded_record(planned)) == settings.to_record()


def inputs_of(planned: PlannedRange) -> RecordedRange:
    """Return the form in which shards record where their documents come from."""
    part = planned.part
    files = tuple(RecordedFile(file.url, file.size, file.version) for file in part.files)
    return RecordedRange(files, part.first_row, planned.rows)


def _add(
    writer: ShardWriter, batch: CleanedBatch, chosen: NDArray[np.intp], encoder: Encoder
) -> None:
    if not len(chosen):
        return
    texts = [batch.texts[place] for place in chosen]
    # A batch of megabytes: an engine's fixed cost for a call is spread over its documents.
    encoded = encoder.encode(texts)
    writer.add_batch(
        encoded.ids,
        encoded.ends,
        sum(len(text.encode()) for text in texts),
        [batch.paths[place] for place in chosen],
        {name: values[chosen] for name, values in batch.columns.items()},
    )


class _PairsFile:
    """Pairs of one range, made of its kept documents of all splits, in their order.

    Which of equal prompts stays is known only when all ranges are put together.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._unfinished = path.with_name(f".{path.name}.unfinished")
        self._file: BinaryIO = self._unfinished.open("wb")

    def __enter__(self) -> "_PairsFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._unfinished.unlink(missing_ok=True)

    def add(self, batch: CleanedBatch, kept: NDArray[np.bool_], config: PairsConfig) -> None:
        """Append the pairs of a batch."""
        for place in np.flatnonzero(kept):
            split = SPLITS[batch.splits[place]]
            for pair in docstring_pairs(batch.texts[place], batch.paths[place], config):
                line = json.dumps(pair.to_json(), ensure_ascii=False)
                # JSON writes a tab inside a string as ``\t``, so the first one ends the split.
                self._file.write(f"{split}\t{line}\n".encode())

    def close(self) -> None:
        """Make the file exist."""
        name_file(self._file, self._path)
        self._file.close()


def read_pairs(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield split and pair, in the order of the documents."""
    with path.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            split, _, pair = line.partition("\t")
            yield split, json.loads(pair)
