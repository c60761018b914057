"""Layer 3 backwards: the documents that a step read, and the steps that read a document.

Nothing is written down while the run trains: its schedule, order and shards say it all. A step's
samples g are drawn (``schedule``), visited (``order``) and cut (``datasets``, ``packing``) as in
training, but to document numbers instead of rows; each of these functions has an inverse.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distrain.data.samples.datasets import DocumentDataset
from distrain.data.samples.order import Ints
from distrain.data.samples.schedule import SamplePlan
from distrain.data.samples.source import OpenedSource, Visits
from distrain.data.shards.reader import ShardedTokens


@dataclass(frozen=True)
class SeenSource:
    """A source as the run reads it."""

    dataset: DocumentDataset
    order: Visits

    @classmethod
    def of(cls, source: OpenedSource, read: int) -> "SeenSource":
        """Look through a source.

        Args:
            source: Of a pretraining stage.
            read: Samples of it that are asked about, from the first on; at least one. As much of a
                source that is tokenized on the fly is looked at.

        Raises:
            TypeError: Its samples are not cut from documents in shards.
        """
        return cls(*source.reach(read - 1))

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
        indices, starts, lengths = seen.dataset.samples_of(shard, begin, end)
        consumed = self.plan.consumed_by_steps(steps)[source]
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
    pieces = source.dataset.pieces_of(indices)
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
