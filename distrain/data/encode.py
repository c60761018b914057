"""Layer 2's last step: one pass over the corpus that writes the splits that are not there yet."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

from distrain.config.data import PairsConfig
from distrain.config.recipe import PrepareStage
from distrain.config.run_folder import StageFolder
from distrain.data.docstrings import docstring_pairs
from distrain.data.manifest import MAIN_SOURCE, SPLITS, Manifest
from distrain.data.pairs import Pair
from distrain.data.preprocess.corpus import Census, CleanDocument, read_corpus
from distrain.data.shard_writer import Origin, ShardWriter
from distrain.errors import DataError

BATCH_CHARACTERS = 2_000_000
"""Text encoded at once: enough to keep all cores busy."""


class PairMaker:
    """Makes the pairs of each document; a prompt that came before, in any split, makes none."""

    def __init__(self, config: PairsConfig) -> None:
        self.config = config
        self._seen: set[bytes] = set()

    def pairs_of(self, document: CleanDocument) -> Iterator[Pair]:
        """Yield the pairs of the next document. Every document is shown, in order, once."""
        for pair in docstring_pairs(document.text, document.path, self.config):
            digest = hashlib.blake2b(pair.prompt.encode(), digest_size=16).digest()
            if digest not in self._seen:
                self._seen.add(digest)
                yield pair


def encode_splits(
    stage: PrepareStage,
    folder: StageFolder,
    origin: Origin,
    census: Census,
    splits: Iterable[str],
) -> dict[str, Manifest]:
    """Write ``splits`` of the corpus whose ``census`` was taken; returns their manifests.

    Raises:
        DataError: The corpus is another one now, or a split that should have pairs gets none.
    """
    pair_maker = PairMaker(stage.pairs) if stage.pairs.kind != "none" else None
    again = Census()
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(
                ShardWriter(
                    folder.split(split) / MAIN_SOURCE,
                    origin,
                    shard_tokens=stage.data.shard_tokens,
                    has_pairs=pair_maker is not None,
                )
            )
            for split in splits
        }
        for batch in _batches(read_corpus(stage.data, again)):
            _write_batch(batch, writers, origin, pair_maker)
        if any(again.digest(split) != census.digest(split) for split in SPLITS):
            raise DataError(
                "data.source",
                "documents that changed while they were read",
                "the same documents at each reading",
                "Run the same command again once nothing writes there.",
            )
        if pair_maker is not None:
            _check_pairs(writers)
        return {split: writer.commit() for split, writer in writers.items()}


def _write_batch(
    batch: list[CleanDocument],
    writers: dict[str, ShardWriter],
    origin: Origin,
    pair_maker: PairMaker | None,
) -> None:
    wanted = [document for document in batch if document.split in writers]
    encoded = origin.tokenizer.encode_batch([document.text for document in wanted])
    for document, ids in zip(wanted, encoded, strict=True):
        writers[document.split].add(ids, len(document.text.encode()), document.path)
    if pair_maker is None:
        return
    for document in batch:
        for pair in pair_maker.pairs_of(document):
            if document.split in writers:
                writers[document.split].add_pair(pair.to_json())


def _batches(documents: Iterable[CleanDocument]) -> Iterator[list[CleanDocument]]:
    batch: list[CleanDocument] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _check_pairs(writers: dict[str, ShardWriter]) -> None:
    for split, writer in writers.items():
        if writer.num_pairs == 0:
            raise DataError(
                "pairs.kind",
                f"no documented Python function in the {split} split",
                "at least one pair in each split",
                "Set pairs.kind to none, or add Python sources with docstrings.",
            )
