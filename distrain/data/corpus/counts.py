"""Counts of the documents kept and rejected, and a few examples of each reason to reject one."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from distrain.data.sources.document import BROKEN_REASONS
from distrain.errors import DataError

SHOWN_BROKEN = 3
SAMPLE_CHARACTERS = 500


@dataclass
class Counts:
    """Each document is in exactly one of ``kept``, ``rejected`` and ``broken``.

    Args:
        kept: Documents by split.
        text_bytes: UTF-8 bytes of kept documents, by split.
        rejected: Reason -> documents that are text, but not wanted.
        broken: Reason -> what is no text; counts against ``data.skip_budget``.
    """

    read: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    text_bytes: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)

    def keep(self, split: str, text_bytes: int) -> None:
        """Count a document that was read and is kept."""
        self.read += 1
        self.kept[split] += 1
        self.text_bytes[split] += text_bytes

    def reject(self, reason: str) -> None:
        """Count a document that was read and is not kept."""
        self.read += 1
        (self.broken if reason in BROKEN_REASONS else self.rejected)[reason] += 1

    def drop_kept(self, split: str, reason: str, documents: int, text_bytes: int) -> None:
        """Reject documents that had been kept so far."""
        self.kept[split] -= documents
        self.text_bytes[split] -= text_bytes
        self.rejected[reason] += documents

    def add(self, other: "Counts") -> None:
        """Add what was counted elsewhere."""
        self.read += other.read
        for name in ("kept", "text_bytes", "rejected", "broken"):
            getattr(self, name).update(getattr(other, name))

    def check(self) -> None:
        """Check that no document was lost or counted twice."""
        seen = self.kept.total() + self.rejected.total() + self.broken.total()
        assert self.read == seen, f"{self.read} documents read, {seen} accounted for"
        assert min(self.kept.values(), default=0) >= 0, f"fewer than none kept: {self.kept}"

    @property
    def dropped(self) -> dict[str, int]:
        """Every reason but none that did not occur, in alphabetical order."""
        # A sum of counters leaves out what is zero, as ``drop_kept`` may have written.
        return dict(sorted((self.rejected + self.broken).items()))

    def to_record(self) -> dict[str, Any]:
        """Return what JSON can hold; ``from_record`` reads it."""
        return {
            "read": self.read,
            "kept": dict(sorted(self.kept.items())),
            "text_bytes": dict(sorted(self.text_bytes.items())),
            "rejected": dict(sorted(self.rejected.items())),
            "broken": dict(sorted(self.broken.items())),
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Counts":
        """Read what ``to_record`` returned."""
        counters = {name: Counter(value) for name, value in record.items() if name != "read"}
        return cls(record["read"], **counters)


def sum_counts(parts: Iterable[Counts]) -> Counts:
    """Add the counts of several ranges."""
    total = Counts()
    for part in parts:
        total.add(part)
    return total


def check_budget(counts: Counts, examples: Iterable[str], skip_budget: int) -> None:
    """Refuse a corpus, or a range, with more broken documents than the recipe tolerates.

    Args:
        counts: Of the corpus or the range.
        examples: A few of what is broken, to be shown.
        skip_budget: Broken documents that are tolerated.

    Raises:
        DataError: There are more.
    """
    # A count and no share, so that it can be judged in the middle of a corpus of unknown size.
    if counts.broken.total() <= skip_budget:
        return
    raise DataError(
        "data.skip_budget",
        f"more than {skip_budget} broken files, the first: {', '.join(examples)}",
        f"at most {skip_budget} files that are no UTF-8 text",
        "Leave such files out of data.source, or raise data.skip_budget.",
    )


@dataclass(frozen=True, slots=True)
class Rejection:
    """One example."""

    reason: str
    path: str
    text: str | None

    def to_record(self) -> dict[str, Any]:
        """Form of a line in ``rejections.jsonl``, but for the source."""
        return {"reason": self.reason, "path": self.path, "text": self.text}


class RejectionSample:
    """Up to ``limit`` examples of each reason: those whose path has the lowest hash.

    So it is a fair sample, and that of all ranges together can be had from those of each.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: dict[str, list[tuple[bytes, Rejection]]] = {}

    def offer(self, reason: str, path: str, text: str | None = None) -> None:
        """Show one more rejected document."""
        shown = None if text is None else text[:SAMPLE_CHARACTERS]
        # By hash of the path and not by chance: the examples are the same after every restart.
        key = hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        kept = self._kept.setdefault(reason, [])
        kept.append((key, Rejection(reason, path, shown)))
        # Now and then only: there are millions of offers, and each sort looks at all that is kept.
        if len(kept) >= 2 * self.limit + 16:
            self._trim(kept)

    def rejections(self) -> list[Rejection]:
        """Return the examples, reason by reason."""
        for kept in self._kept.values():
            self._trim(kept)
        return [rejection for reason in sorted(self._kept) for _, rejection in self._kept[reason]]

    def _trim(self, kept: list[tuple[bytes, Rejection]]) -> None:
        kept.sort(key=lambda pair: (pair[0], pair[1].path))
        del kept[self.limit :]
