"""Layer 3 backwards: the documents that a step read, and the steps that read a document.

Nothing is written down while the run trains: its schedule, order and shards say it all. A step's
samples g are drawn (``schedule``), visited (``order``) and cut (``datasets``, ``packing``) as in
training, but to document numbers instead of rows; each of these functions has an inverse.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from distrain.data.samples.datasets import Dataset, PackedDataset, PretrainDataset
from distrain.data.samples.feed import OrderedStream, Stream
from distrain.data.samples.on_the_fly import OnTheFlyStream
from distrain.data.samples.order import Ints
from distrain.data.samples.packing import Pieces
from distrain.data.samples.schedule import SamplePlan
from distrain.data.shards.reader import ShardedTokens

Cut = PretrainDataset | PackedDataset
"""Datasets whose samples are stretches of documents."""


class Visits(Protocol):
    """In which order the samples of a source are read; see ``order.Order``."""

    @property
    def num_samples(self) -> int:
        """In an epoch."""
        ...

    def visit(self, n: Ints) -> tuple[Ints, Ints]:
        """Return the epochs and the indices of the samples ``n``."""
        ...

    def find(self, epoch: int, indices: Ints) -> Ints:
        """Return which n visits each of ``indices`` in ``epoch``."""
        ...


@dataclass(frozen=True)
class SeenSource:
    """A source as the run reads it."""

    dataset: Cut
    order: Visits

    @classmethod
    def of(cls, stream: Stream, read: int) -> "SeenSource":
        """Look through a stream.

        Args:
            stream: Of a pretraining stage.
            read: Samples of it that are asked about, from the first on; at least one. As much of a
                source that is tokenized on the fly is looked at.

        Raises:
            TypeError: Its samples are not cut from documents in shards.
        """
        dataset: Dataset | None = None
        order: Visits
        if isinstance(stream, OrderedStream):
            dataset, order = stream.dataset, stream.order
        elif isinstance(stream, OnTheFlyStream):
            dataset, order = stream.reach(read - 1)
        # Pairs have no documents to be looked up.
        if not isinstance(dataset, Cut):
            raise TypeError(f"{type(stream).__name__}; expected a stream of documents")
        return cls(dataset, order)

    @property
    def tokens(self) -> ShardedTokens:
        """The stream that the samples are cut from."""
        return self.dataset.tokens


class DocumentPart(NamedTuple):
    """A stretch of one document in one sample.

    Its first token is an input only; each further one is the target of the one before. A token
    that ends a document is the last target of it and, as an input, of no effect: a stretch that
    would hold nothing else is no part.
    """

    sample: int
    """g, counted over the run."""
    source: str
    epoch: int
    """Of the source, from 0."""
    shard: int
    document: int
    """Number within the source."""
    first: int
    """First token, within the document."""
    stop: int
    """End of the last one."""

    @property
    def num_targets(self) -> int:
        """Tokens that the step trained on."""
        return self.stop - self.first - 1


@dataclass(frozen=True)
class Ledger:
    """The documents that a run reads, by step.

    Args:
        plan: Maps each g to a sample of a source.
        sources: By name; those that were read.
    """

    plan: SamplePlan
    sources: Mapping[str, SeenSource]

    def parts_of_step(self, step: int) -> list[DocumentPart]:
        """List what ``step``, from 0, reads: sample by sample, as the parts lie in their rows."""
        first, size = self.plan.schedule.samples_of(step)
        samples = np.arange(first, first + size)
        kinds, n = self.plan.draw(samples)
        found: list[DocumentPart] = []
        for kind in np.unique(kinds).tolist():
            chosen = kinds == kind
            name = self.plan.names[kind]
            found += _parts(name, self.sources[name], samples[chosen], n[chosen])
        # A stable sort: the parts of one sample stay in their order.
        return sorted(found, key=lambda part: part.sample)

    def parts_of_document(self, source: str, document: int, steps: int) -> list[DocumentPart]:
        """List where the first ``steps`` steps read a document, in the order of the run.

        Raises:
            IndexError: The source has no such document.
        """
        seen = self.sources[source]
        shard, begin, end = seen.tokens.document_span(document)
        indices, starts, lengths = samples_of(seen.dataset, shard, begin, end)
        consumed = self.consumed(steps)[source]
        found = []
        # Of the last epoch, only what comes before ``consumed`` was read.
        for epoch in range(-(-consumed // seen.order.num_samples)):
            numbers = seen.order.find(epoch, indices)
            for n, start, length in zip(
                numbers.tolist(), starts.tolist(), lengths.tolist(), strict=True
            ):
                if n < consumed:
                    # A document may lie in several samples, which the mixture may read far apart.
                    g = self.plan.find(source, n)
                    first = start - begin
                    found.append(
                        DocumentPart(g, source, epoch, shard, document, first, first + length + 1)
                    )
        return sorted(found)

    def consumed(self, steps: int) -> dict[str, int]:
        """Return how many samples of each source the first ``steps`` steps read."""
        if not steps:
            return dict.fromkeys(self.plan.names, 0)
        first, size = self.plan.schedule.samples_of(steps - 1)
        return self.plan.consumed(first + size)


def pieces_of(dataset: Cut, indices: Ints) -> Pieces:
    """Cut the samples ``indices`` at documents, in the order in which they lie in the rows.

    A piece holds the inputs that have a target; see ``packing``.
    """
    # A packed sample is made of such pieces; others have to be cut where documents end.
    if isinstance(dataset, PackedDataset):
        return dataset.index.pieces_of(indices)
    parts = [
        (np.full(len(starts), row), np.full(len(starts), shard), starts, lengths)
        for row, index in enumerate(indices.tolist())
        for shard, starts, lengths in _stretches(dataset, index)
    ]
    empty = np.empty(0, np.int64)
    columns = zip(*parts, strict=True) if parts else (() for _ in Pieces._fields)
    return Pieces(*(np.concatenate([empty, *column]) for column in columns))


def samples_of(dataset: Cut, shard: int, begin: int, end: int) -> tuple[Ints, Ints, Ints]:
    """Return the samples with a target in the document at [begin, end) of a shard.

    Returns:
        Indices of the samples, and start within the shard and length, as those of a piece, of what
        each of them holds of the document.
    """
    if isinstance(dataset, PackedDataset):
        plan = dataset.index.plans[shard]
        # Pieces of a document may be in any bins of its shard, so all are looked at: one pass in
        # numpy.
        (chosen,) = np.nonzero((plan.starts >= begin) & (plan.starts < end))
        bins = np.searchsorted(plan.first_piece, chosen, side="right") - 1
        indices = bins + dataset.index.first_sample[shard]
        return indices, plan.starts[chosen], plan.lengths[chosen].astype(np.int64)
    length = dataset.sequence_length
    base = dataset.tokens.first_token[shard]
    # The last token has no target in its document, and tokens behind the last whole sample are in
    # no sample.
    last = min((base + end - 2) // length, len(dataset) - 1) if end - begin > 1 else -1
    indices = np.arange((base + begin) // length, last + 1)
    starts = np.maximum(indices * length - base, begin)
    stops = np.minimum((indices + 1) * length - base, end - 1)
    return indices, starts, stops - starts


def byte_ranges(
    tokens: ShardedTokens, sizes: NDArray[np.int64], parts: Sequence[DocumentPart]
) -> list[tuple[int, int]]:
    """Return which bytes of its document's text each part stands for.

    Args:
        tokens: Of the source that all parts are of.
        sizes: Bytes of each id, as ``Tokenizer.token_bytes`` counts them.
        parts: In any order.
    """
    # Each document is read once, however many parts of it are asked for.
    by_document: dict[int, list[int]] = defaultdict(list)
    for place, part in enumerate(parts):
        by_document[part.document].append(place)
    ranges = [(0, 0)] * len(parts)
    for document, places in by_document.items():
        before = np.concatenate([[0], np.cumsum(sizes[tokens.document(document)])])
        for place in places:
            ranges[place] = int(before[parts[place].first]), int(before[parts[place].stop])
    return ranges


def _parts(name: str, source: SeenSource, samples: Ints, n: Ints) -> list[DocumentPart]:
    """List the parts of the samples ``n`` of a source, which are the run's ``samples``."""
    epochs, indices = source.order.visit(n)
    pieces = pieces_of(source.dataset, indices)
    found = []
    for row, shard, start, length in zip(*(column.tolist() for column in pieces), strict=True):
        ends = source.tokens.shards[shard].ends
        # In the type of the ends: with another one, numpy would copy all of them.
        within = int(ends.searchsorted(ends.dtype.type(start), side="right"))
        first = start - (int(ends[within - 1]) if within else 0)
        document = source.tokens.first_document[shard] + within
        g, epoch = int(samples[row]), int(epochs[row])
        found.append(DocumentPart(g, name, epoch, shard, document, first, first + length + 1))
    return found


def _stretches(dataset: PretrainDataset, index: int) -> Iterator[tuple[int, Ints, Ints]]:
    """Cut a sample of laid out documents: shard, then start and length of each piece in it."""
    start = index * dataset.sequence_length
    for shard, first, stop in dataset.tokens.pieces(start, start + dataset.sequence_length):
        ends = dataset.tokens.shards[shard].ends
        keys = np.array([first, stop - 1], ends.dtype)
        low, high = ends.searchsorted(keys, side="right").tolist()
        stops = ends[low : high + 1].astype(np.int64)
        begins = np.concatenate([[int(ends[low - 1]) if low else 0], stops[:-1]])
        starts = np.maximum(begins, first)
        lengths = np.minimum(stops - 1, stop) - starts
        yield shard, starts[lengths > 0], lengths[lengths > 0]
