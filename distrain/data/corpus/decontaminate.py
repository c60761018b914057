"""Train documents that repeat stretches of what the model will be measured on.

Evidence is a shared word n-gram (GPT-3, arXiv 2005.14165, appendix C). The n-grams of held-out
texts are collected first (``count_ngrams`` for each range, then ``collect_ngrams``), then train
documents are looked up in them. The held-out text always stays; the train document goes.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distrain.config.dedup import DecontaminateConfig
from distrain.data.curate.normalize import normalize
from distrain.data.curate.words import TextView
from distrain.errors import DataError

Hashes = NDArray[np.uint64]

SETTING = "data.dedup.decontaminate"

MAX_TABLE_BITS = 28
"""The table before the search takes at most 2^28 bytes."""


@dataclass(frozen=True)
class NgramCounts:
    """The different n-grams of some documents.

    Args:
        hashes: Ascending, without repeats.
        documents: In how many documents each is, uint32.
    """

    hashes: Hashes
    documents: NDArray[np.uint32]


def count_ngrams(documents: Iterable[Hashes]) -> NgramCounts:
    """Count in how many documents each n-gram is; one array of n-gram hashes a document."""
    hashes = np.concatenate([np.zeros(0, np.uint64), *map(np.unique, documents)])
    hashes, counts = np.unique(hashes, return_counts=True)
    return NgramCounts(hashes, counts.astype(np.uint32))


def add_counts(parts: Iterable[NgramCounts]) -> NgramCounts:
    """Add up what was counted for several ranges."""
    parts = list(parts)
    if not parts:
        return count_ngrams([])
    hashes = np.concatenate([part.hashes for part in parts])
    documents = np.concatenate([part.documents for part in parts])
    order = np.argsort(hashes, kind="stable")  # merges runs that are sorted
    hashes, documents = hashes[order], documents[order]
    starts = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1])[: hashes.size])
    if not starts.size:
        return NgramCounts(hashes, documents)
    return NgramCounts(hashes[starts], np.add.reduceat(documents, starts))


def collect_ngrams(
    held_out: Iterable[NgramCounts], texts: Hashes, config: DecontaminateConfig
) -> Hashes:
    """Collect the n-grams that are evidence, ascending: an array to save and to map.

    Args:
        held_out: Of the validation and test documents that are kept: copies among them would
            make their n-grams look like boilerplate.
        texts: Of the benchmark texts (``read_benchmarks``). They are evidence however many
            texts they are in: questions about one passage repeat it.
        config: Says what is boilerplate.
    """
    # Over all ranges first: boilerplate is what occurs in many documents, wherever these lie.
    counts = add_counts(held_out)
    hashes = counts.hashes
    if config.max_documents is not None:
        hashes = hashes[counts.documents <= config.max_documents]
    return np.union1d(hashes, texts)


class NgramSet:
    """Membership in an ascending array of n-gram hashes.

    Most n-grams of train are in no held-out text. A table of the leading bits, one byte each, says
    so for most of them with one look, where a search takes some twenty.
    """

    def __init__(self, hashes: Hashes) -> None:
        self._hashes = hashes
        # At least eight places a hash (up to the limit): of the n-grams that are in no held-out
        # text, at most about one in eight has to be searched for.
        bits = min(max(int(hashes.size * 8).bit_length(), 8), MAX_TABLE_BITS)
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits, np.bool_)
        self._table[self._place(np.asarray(hashes))] = True

    def contains(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Return for each hash whether it is in the set."""
        found: NDArray[np.bool_] = self._table[self._place(hashes)]
        possible = np.flatnonzero(found)
        places = np.searchsorted(self._hashes, hashes[possible])
        # Above all hashes: any place will do, as it cannot be equal to the one there.
        places[places == self._hashes.size] = 0
        found[possible] = self._hashes[places] == hashes[possible]
        return found

    def _place(self, hashes: Hashes) -> NDArray[np.int64]:
        # Multiplied, because the leading bits of a rolled hash may be uneven.
        return (hashes * np.uint64(0x9E3779B97F4A7C15) >> self._shift).astype(np.int64)


@dataclass(frozen=True)
class Overlap:
    """The n-grams that N documents share with held-out texts.

    Args:
        shared: N-grams at whose place the set has them, shape (N,), int64.
        total: N-grams of each document, shape (N,), int64.
    """

    shared: NDArray[np.int64]
    total: NDArray[np.int64]

    def is_contaminated(self, config: DecontaminateConfig) -> NDArray[np.bool_]:
        """Return which documents share enough to be dropped, shape (N,)."""
        enough: NDArray[np.bool_] = (self.shared >= config.min_count) & (
            self.shared >= config.min_share * self.total
        )
        return enough


def find_overlap(hashes: Hashes, ends: NDArray[np.int64], ngrams: NgramSet) -> Overlap:
    """Count the n-grams that documents share with held-out texts.

    Args:
        hashes: N-gram hashes of all documents, one document after the other.
        ends: Where each document ends in ``hashes``, shape (N,).
        ngrams: Of the held-out texts, of the same length of n-gram.
    """
    # Differences of a running sum: a document without n-grams then counts 0, where
    # ``np.add.reduceat`` would take its neighbour's.
    sums = np.append(0, np.cumsum(ngrams.contains(hashes)))
    bounds = np.append(0, ends).astype(np.int64)
    return Overlap(np.diff(sums[bounds]), np.diff(bounds))


@dataclass(frozen=True)
class Benchmarks:
    """N-grams of benchmark texts.

    Args:
        hashes: Ascending, without repeats.
        texts: Number of texts read.
        short: How many have fewer words than an n-gram: only a document that is nothing but
            such a text is found.
    """

    hashes: Hashes
    texts: int
    short: int


def read_benchmarks(config: DecontaminateConfig) -> Benchmarks:
    """Read the files of ``config.texts``.

    Raises:
        DataError: A file is missing, no UTF-8 text, or holds no text; or all texts are shorter
            than an n-gram.
    """
    # Normalised as documents are by default, or equal words would have unequal hashes.
    views = [TextView(normalize(text)) for name in config.texts for text in _read_texts(Path(name))]
    lengths = [int(view.split.lexical.sum()) for view in views]
    short = sum(length < config.ngram for length in lengths)
    if views and short == len(views):
        raise DataError(
            f"{SETTING}.ngram",
            f"{len(views)} benchmark texts of at most {max(lengths)} words",
            f"texts of {config.ngram} words and more, the length of an n-gram",
            f"Lower {SETTING}.ngram to {max(1, *lengths)} or less, or give longer texts.",
        )
    hashes = count_ngrams(view.shingle_hashes(config.ngram) for view in views).hashes
    return Benchmarks(hashes, len(views), short)


def _read_texts(path: Path) -> Sequence[str]:
    try:
        # A byte order mark would be part of the first word. Not ``splitlines``: it also cuts at
        # U+2028 and others, which a JSON string may hold as they are.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(
            str(path),
            f"no readable file ({error.strerror or error})",
            "a file of benchmark texts",
            f"Correct {SETTING}.texts.",
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            str(path),
            f"a byte that is no UTF-8 at {error.start}",
            "UTF-8 text",
            "Convert the file to UTF-8.",
        ) from error
    rows = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise DataError(
            str(path),
            "no text",
            "at least one benchmark text",
            f"Remove the file from {SETTING}.texts.",
        )
    if path.suffix != ".jsonl":
        return [line for _, line in rows]
    return [_text_of(line, f"{path}:{number}") for number, line in rows]


def _text_of(line: str, where: str) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            where, f"no JSON ({error.msg})", "one JSON object a line", "Correct the line."
        ) from error
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        # The fields that are there: mostly the text has another name.
        keys = ", ".join(sorted(record)) if isinstance(record, dict) else type(record).__name__
        raise DataError(
            where,
            f"no string in a field 'text' (there is: {keys or 'nothing'})",
            '{"text": "..."}',
            "Write each benchmark text into a field 'text'.",
        )
    return text
