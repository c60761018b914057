"""Train, validation and test of a stream whose documents have no text to tell them apart by.

Foreign ids carry no hash of their text, so a split is a run of documents: the last ones are the
test split, those before them the validation split, the rest is for training.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distrain.config.data import SPLITS
from distrain.data.shards.reader import ShardedTokens, TokenShard
from distrain.errors import DataError


class DocumentRange:
    """Documents [first, stop) of a shard, as a shard of their own; nothing is copied but ends.

    Args:
        shard: That holds them.
        first: Number of the first document, within the shard.
        stop: Number of the document after the last.
    """

    def __init__(self, shard: TokenShard, first: int, stop: int) -> None:
        self.shard = shard
        self.path: Path | None = getattr(shard, "path", None)
        self._start = int(shard.ends[first - 1]) if first else 0
        # A copy only where the range begins inside the shard: two of three splits, mostly small.
        ends = shard.ends[first:stop]
        self.ends: NDArray[np.integer] = ends - ends.dtype.type(self._start) if first else ends
        self.num_tokens = int(self.ends[-1]) if len(self.ends) else 0
        self.num_documents = len(self.ends)

    def tokens(self, start: int, stop: int) -> NDArray[np.integer]:
        """View the tokens at [start, stop) of the range."""
        end = min(stop, self.num_tokens)
        return self.shard.tokens(self._start + start, self._start + max(start, end))


class StreamRange(ShardedTokens):
    """Documents [first, stop) of a stream, as a stream.

    Args:
        stream: That holds them.
        first: Number of the first document in ``stream``: document d here is ``first + d`` there.
        stop: Number of the document after the last.
    """

    def __init__(self, stream: ShardedTokens, first: int, stop: int) -> None:
        shards: list[TokenShard] = []
        for number, shard in enumerate(stream.shards):
            begin, end = stream.first_document[number], stream.first_document[number + 1]
            low, high = max(first, begin), min(stop, end)
            if low < high:
                # A shard that lies inside stays itself: its reads need no offset, its ends no view.
                whole = (low, high) == (begin, end)
                shards.append(shard if whole else DocumentRange(shard, low - begin, high - begin))
        super().__init__(shards, eos_id=stream.eos_id)
        self.first = first
        self.stop = stop


def split_stream(
    tokens: ShardedTokens, validation_fraction: float, test_fraction: float
) -> dict[str, StreamRange]:
    """Cut a stream into runs of documents: train, then validation, then test at the end.

    Args:
        tokens: The whole stream.
        validation_fraction: Share of the documents, at least one.
        test_fraction: Share of the documents, at least one.

    Returns:
        Views by the names of the splits; each has a document at least.

    Raises:
        DataError: There are too few documents.
    """
    count = tokens.num_documents
    # One document where the share rounds to none: a stage that measures has to find something.
    test = max(1, round(count * test_fraction))
    validation = max(1, round(count * validation_fraction))
    train = count - validation - test
    if train < 1:
        raise DataError(
            "data.source",
            f"{count} documents",
            f"more than {validation} for the validation split and {test} for the test split",
            "Add files, or lower validation_fraction and test_fraction.",
        )
    limits = (0, train, train + validation, count)
    return {
        split: StreamRange(tokens, limits[number], limits[number + 1])
        for number, split in enumerate(SPLITS)
    }
