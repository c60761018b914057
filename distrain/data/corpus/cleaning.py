"""Phase *clean*: one range -> its cleaned documents on disk, and what became of all the others."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrain.config.data import DataConfig
from distrain.data.corpus.cleaned import CleanDocument, CleanedWriter, printable
from distrain.data.corpus.clusters import Reason
from distrain.data.corpus.counts import (
    SHOWN_BROKEN,
    Counts,
    Rejection,
    RejectionSample,
    check_budget,
)
from distrain.data.corpus.plan import PlannedRange
from distrain.data.corpus.sketches import SketchFile
from distrain.data.corpus.work_folder import WorkFolder
from distrain.data.curate.clean import Cleaner, CleanText, Rejected
from distrain.data.curate.quality import QUALITY_COLUMNS, quality_figures
from distrain.data.curate.split import split_of
from distrain.data.curate.words import TextView
from distrain.data.sources import open_source
from distrain.data.sources.document import BROKEN_REASONS, Broken
from distrain.runs.records import read_json, write_json

DUPLICATE = Reason.DUPLICATE.name.lower()


class Tally:
    """Counts, and examples, of the documents of one range, as they are cleaned."""

    def __init__(self, config: DataConfig) -> None:
        self.counts = Counts()
        self.sample = RejectionSample(config.rejection_samples)
        self.broken: list[str] = []
        """The first few documents that are no text, with the reason."""
        self._skip_budget = config.skip_budget

    def keep(self, document: CleanDocument) -> None:
        """Count a document that is kept."""
        self.counts.keep(document.split, document.text_bytes)

    def reject(self, path: str, reason: str, text: str | None = None) -> None:
        """Count a document that is not kept.

        Raises:
            DataError: More of this range is broken than of the whole corpus may be.
        """
        self.counts.reject(reason)
        self.sample.offer(reason, path, text)
        if reason in BROKEN_REASONS:
            if len(self.broken) < SHOWN_BROKEN:
                self.broken.append(f"{printable(path)} ({reason})")
            # One range beyond the budget settles it for the corpus: hours before the last range.
            check_budget(self.counts, self.broken, self._skip_budget)


def clean_range(
    config: DataConfig, planned: PlannedRange, cleaner: Cleaner, tally: Tally
) -> Iterator[tuple[CleanDocument, TextView]]:
    """Yield the documents of a range that are kept, in order, and count all into ``tally``.

    Copies are not looked for, as what is one depends on the ranges before; but with ``on_the_fly``
    nobody will, so train documents that are copies of one in this range go.

    Raises:
        DataError: A file changed since the plan was made, or too much of it is broken.
    """
    seen: set[bytes] = set()
    reader = open_source(config.text_sources[planned.source], config.range_bytes)
    for found in reader.read(planned.part):
        if isinstance(found, Broken):
            tally.reject(found.path, found.reason)
            continue
        cleaned = cleaner.clean(found)
        if isinstance(cleaned, Rejected):
            tally.reject(cleaned.path, cleaned.reason, cleaned.text)
            continue
        document = _document(cleaned, found.label, config)
        # Only train: validation and test are prepared at once even then, and the dedup phase
        # compares them over all ranges.
        if config.on_the_fly and config.dedup.exact and document.split == "train":
            if document.digest in seen:
                tally.reject(document.path, DUPLICATE, document.text)
                continue
            seen.add(document.digest)
        tally.keep(document)
        yield document, cleaned.view


def _document(cleaned: CleanText, label: str | None, config: DataConfig) -> CleanDocument:
    return CleanDocument(
        cleaned.text,
        cleaned.path,
        split_of(cleaned.digest, config.validation_fraction, config.test_fraction),
        cleaned.digest,
        len(cleaned.text.encode()),
        label,
        quality_figures(cleaned.view) if config.quality else {},
    )


@dataclass(frozen=True)
class CleanedRange:
    """The record of a range that is cleaned.

    Args:
        documents: In the file.
        size_bytes: Of the file.
        broken: The first few documents that are no text.
    """

    counts: Counts
    documents: int
    size_bytes: int
    broken: list[str]
    rejections: list[Rejection]

    def to_record(self) -> dict[str, Any]:
        """Return what JSON can hold; ``load_cleaned`` reads it."""
        return {
            "counts": self.counts.to_record(),
            "documents": self.documents,
            "size_bytes": self.size_bytes,
            "broken": self.broken,
            "rejections": [rejection.to_record() for rejection in self.rejections],
        }


def load_cleaned(work: WorkFolder, planned: PlannedRange) -> CleanedRange | None:
    """Return the record of a range; ``None`` if it has to be cleaned."""
    record = read_json(work.cleaned_record(planned))
    if record is None:
        return None
    try:
        # A record is written after its file, but the file may have been removed or cut since.
        size = work.documents(planned).stat().st_size
    except FileNotFoundError:
        return None
    if size != record["size_bytes"]:
        return None
    return CleanedRange(
        Counts.from_record(record["counts"]),
        record["documents"],
        record["size_bytes"],
        record["broken"],
        [Rejection(**rejection) for rejection in record["rejections"]],
    )


@dataclass(frozen=True)
class CleanJob:
    """Cleans one range; a job for ``WorkerPool``.

    Args:
        train_bytes: Text of the train split that is written; ``None`` is all of it.
    """

    config: DataConfig
    planned: PlannedRange
    work: Path
    train_bytes: int | None = None

    @property
    def title(self) -> str:
        """See ``Job``."""
        return f"cleaning {self.planned.title}"

    def run(self) -> CleanedRange:
        """Write the cleaned documents, then the record."""
        work = WorkFolder(self.work)
        tally = Tally(self.config)
        cleaner = Cleaner(self.config.of_source(self.planned.source))
        minhash = self.config.dedup.minhash
        sketches = None if minhash is None else SketchFile(work.sketches(self.planned), minhash)
        documents = train_bytes = 0
        quality = QUALITY_COLUMNS if self.config.quality else ()
        with CleanedWriter(work.documents(self.planned), quality) as writer:
            for document, view in clean_range(self.config, self.planned, cleaner, tally):
                if document.split == "train" and self.train_bytes is not None:
                    # Counted and left: held-out documents may still follow, so reading goes on.
                    if train_bytes >= self.train_bytes:
                        continue
                    train_bytes += document.text_bytes
                writer.add(document)
                if sketches is not None:
                    sketches.add(view)
                documents += 1
            if sketches is not None:
                # Before the record, which is all that a later attempt asks for.
                sketches.close()
            size_bytes = writer.close()
        # A document that was lost or counted twice must not get into a record.
        tally.counts.check()
        done = CleanedRange(
            tally.counts, documents, size_bytes, tally.broken, tally.sample.rejections()
        )
        write_json(work.cleaned_record(self.planned), done.to_record())
        return done
