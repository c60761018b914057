"""The corpus as layer 2 leaves it: clean documents of three splits, and why others were dropped.

It is read again for each use instead of being held in memory: only a hash for each document is.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from distrain.config.data import DataConfig
from distrain.data.document import Broken, Document
from distrain.data.manifest import SPLITS
from distrain.data.preprocess.normalize import normalize
from distrain.data.preprocess.split import split_of, text_digest
from distrain.data.sources import read_source
from distrain.errors import DataError

BROKEN_REASONS = frozenset({"unreadable", "not_utf8", "nul_bytes", "not_json", "no_text_field"})
"""What counts against ``data.skip_budget``; other reasons are ordinary."""

SHOWN = 3


@dataclass(frozen=True, slots=True)
class CleanDocument:
    """A document that is kept."""

    text: str
    path: str
    split: str
    digest: bytes


@dataclass
class Census:
    """What one reading of the corpus found.

    Args:
        documents: Kept documents by split.
        text_bytes: Their UTF-8 bytes.
        dropped: Reason -> count.
        broken: The first few files that are no text, with the reason.
    """

    documents: Counter[str] = field(default_factory=Counter)
    text_bytes: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    _hashes: dict[str, "hashlib._Hash"] = field(
        default_factory=lambda: {split: hashlib.sha256() for split in SPLITS}
    )

    def keep(self, document: CleanDocument) -> None:
        """Count a document that is kept."""
        self.documents[document.split] += 1
        self.text_bytes[document.split] += len(document.text.encode())
        self._hashes[document.split].update(document.digest)

    def drop(self, path: str, reason: str) -> None:
        """Count a document that is not kept."""
        self.dropped[reason] += 1
        if reason in BROKEN_REASONS and len(self.broken) < SHOWN:
            self.broken.append(f"{path} ({reason})")

    def digest(self, split: str) -> str:
        """Hash the documents of a split, in their order."""
        return self._hashes[split].hexdigest()


def read_corpus(config: DataConfig, census: Census | None = None) -> Iterator[CleanDocument]:
    """Yield the clean documents in the order of the source, filling ``census`` on the way.

    Raises:
        DataError: The source is not there, or holds more broken files than ``skip_budget``.
    """
    census = Census() if census is None else census
    seen: set[bytes] = set()
    sources = config.named_sources.values()
    for found in chain.from_iterable(map(read_source, sources)):
        cleaned = _clean(found, config, seen)
        if isinstance(cleaned, Broken):
            census.drop(cleaned.path, cleaned.reason)
            _keep_budget(census, config)
        else:
            census.keep(cleaned)
            yield cleaned


def take_census(config: DataConfig) -> Census:
    """Read the corpus once, and see that it serves.

    Raises:
        DataError: As ``read_corpus``; also if nothing is left, or a split is empty.
    """
    census = Census()
    for _ in read_corpus(config, census):
        pass
    dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(census.dropped.items()))
    if not census.documents:
        raise DataError(
            "data.source",
            f"an empty corpus (dropped: {dropped or 'none'}"
            + (f", the first: {', '.join(census.broken)})" if census.broken else ")"),
            "documents with text",
            _remedy_of_empty(census),
        )
    for split in SPLITS:
        if not census.documents[split]:
            raise _empty_split(split, census, config)
    return census


def _remedy_of_empty(census: Census) -> str:
    if census.broken:
        return "Let data.source name files of UTF-8 text."
    if census.dropped["too_short"]:
        return "Correct data.source, or lower data.min_characters."
    return "Put documents with text there, or correct data.source."


def _clean(
    found: Document | Broken, config: DataConfig, seen: set[bytes]
) -> CleanDocument | Broken:
    if isinstance(found, Broken):
        return found
    # Files were checked as bytes; a row of a table may still hold what no text does.
    if "\0" in found.text:
        return Broken(found.path, "nul_bytes")
    text = normalize(found.text)
    if not text.strip() or len(text) < config.min_characters:
        return Broken(found.path, "too_short" if text.strip() else "empty")
    try:
        digest = text_digest(text)
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON may escape it
        return Broken(found.path, "not_utf8")
    if digest in seen:
        return Broken(found.path, "duplicate")
    seen.add(digest)
    split = split_of(digest, config.validation_fraction, config.test_fraction)
    return CleanDocument(text, found.path, split, digest)


def _keep_budget(census: Census, config: DataConfig) -> None:
    broken = sum(census.dropped[reason] for reason in BROKEN_REASONS)
    if broken <= config.skip_budget:
        return
    raise DataError(
        "data.skip_budget",
        f"more than {config.skip_budget} broken files, the first: {', '.join(census.broken)}",
        f"at most {config.skip_budget} files that are no UTF-8 text",
        "Leave such files out of data.source, or raise data.skip_budget.",
    )


def _empty_split(split: str, census: Census, config: DataConfig) -> DataError:
    total = census.documents.total()
    fractions = {"validation": config.validation_fraction, "test": config.test_fraction}
    if split in fractions:
        remedy = (
            f"Add documents (cut long ones into several), or raise data.{split}_fraction from "
            f"{fractions[split]} towards {min(0.4, max(2 / total, 2 * fractions[split])):.2g}."
        )
    else:
        remedy = "Add documents, or lower data.validation_fraction and data.test_fraction."
    return DataError(
        "data",
        f"no document in the {split} split ({total} documents in all)",
        "at least one document in each of train, validation and test",
        remedy,
    )
