"""Phase *dedup*, its last part: train documents that repeat held-out ones, range by range."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distrain.config.data import SPLITS
from distrain.config.dedup import DecontaminateConfig
from distrain.data.corpus.cleaned import read_batches
from distrain.data.corpus.clusters import Reason
from distrain.data.corpus.decontaminate import NgramCounts, NgramSet, count_ngrams, find_overlap
from distrain.data.corpus.minhash import flatten
from distrain.data.corpus.plan import PlannedRange
from distrain.data.curate.words import TextView

TRAIN = SPLITS.index("train")
Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class CountHeldOutJob:
    """Counts the n-grams of the kept held-out documents of one range.

    Args:
        documents: The range's cleaned documents.
        mask: What of them is kept so far.
    """

    config: DecontaminateConfig
    planned: PlannedRange
    documents: Path
    mask: Mask

    @property
    def title(self) -> str:
        """See ``Job``."""
        return f"reading the held-out documents of {self.planned.title}"

    def run(self) -> NgramCounts:
        """Return the counts."""
        hashes = (
            TextView(text).shingle_hashes(self.config.ngram)
            for texts, _ in _chosen(self.documents, self.mask, train=False)
            for text in texts
        )
        return count_ngrams(hashes)


@dataclass(frozen=True)
class FindContaminatedJob:
    """Finds the train documents of one range that repeat what is held out.

    Args:
        ngrams: File of ``collect_ngrams``.
    """

    config: DecontaminateConfig
    planned: PlannedRange
    documents: Path
    mask: Mask
    ngrams: Path

    @property
    def title(self) -> str:
        """See ``Job``."""
        return f"comparing {self.planned.title} with the held-out documents"

    def run(self) -> NDArray[np.int64]:
        """Return the rows of these documents."""
        # Mapped: the workers of a node share one copy of what may be gigabytes.
        ngrams = NgramSet(np.load(self.ngrams, mmap_mode="r"))
        found = [np.zeros(0, np.int64)]
        for texts, rows in _chosen(self.documents, self.mask, train=True):
            hashes = [TextView(text).shingle_hashes(self.config.ngram) for text in texts]
            overlap = find_overlap(*flatten(hashes), ngrams)
            found.append(rows[overlap.is_contaminated(self.config)])
        return np.concatenate(found)


def _chosen(
    documents: Path, mask: Mask, *, train: bool
) -> Iterator[tuple[list[str], NDArray[np.int64]]]:
    for batch in read_batches(documents):
        kept = mask[batch.first : batch.first + len(batch.texts)] == Reason.KEPT
        places = np.flatnonzero(kept & ((batch.splits == TRAIN) == train))
        if len(places):
            yield [batch.texts[place] for place in places], places + batch.first
