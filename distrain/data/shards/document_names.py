"""Documents by their names: what the files beside the shards say, in both directions."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import PurePosixPath

from distrain.data.shards.names import read_names
from distrain.data.shards.reader import ShardedTokens, Split
from distrain.errors import NotFoundError

NUMBER_SIGN = "#"
"""``#17`` is document 17 of a source, whatever its name."""
COMPARED_NAMES = 50_000
"""Looked at for one like a name that there is not."""
SHOWN_NAMES = 3


class DocumentNames:
    """Names of a source's documents; those of the last shard that was asked for stay in memory.

    Args:
        tokens: Of the source.
        splits: What its shards are of, in their order: one, or one for each range of the input.
    """

    def __init__(self, tokens: ShardedTokens, splits: Sequence[Split]) -> None:
        self.tokens = tokens
        self._files = [
            (split.path, shard.name) for split in splits for shard in split.manifest.shards
        ]
        self._shard: tuple[int, list[str] | None] = (-1, None)

    def name(self, document: int) -> str | None:
        """Return the name of a document; ``None`` if the shards were written without names."""
        shard, _, _ = self.tokens.document_span(document)
        names = self.of_shard(shard)
        return None if names is None else names[document - self.tokens.first_document[shard]]

    def of_shard(self, shard: int) -> list[str] | None:
        """Return the names of all documents of a shard."""
        if self._shard[0] != shard:
            self._shard = shard, read_names(*self._files[shard])
        return self._shard[1]

    def find(self, name: str) -> list[int]:
        """Return the numbers of the documents of this name, else of those whose path ends in it.

        Several may share a name, such as the rows of a table.
        """
        exact, ending = [], []
        end = f"/{name}"
        for number, known in self._all():
            if known == name:
                exact.append(number)
            # Of several that end alike, all: the caller shows them.
            elif not exact and known.endswith(end):
                ending.append(number)
        return exact or ending

    def like(self, name: str) -> list[str]:
        """Return a few names that may have been meant: those of files that are spelt alike."""
        by_file: dict[str, list[str]] = {}
        # Bounded: it is a hint beside an error, and similarity takes time for each name.
        for _, known in islice(self._all(), COMPARED_NAMES):
            by_file.setdefault(PurePosixPath(known).name, []).append(known)
        files = difflib.get_close_matches(PurePosixPath(name).name, by_file, SHOWN_NAMES)
        return [known for file in files for known in by_file[file][:1]]

    def _all(self) -> Iterator[tuple[int, str]]:
        for shard, first in enumerate(self.tokens.first_document[:-1]):
            yield from enumerate(self.of_shard(shard) or (), first)


def find_documents(names: Mapping[str, DocumentNames], wanted: str) -> list[tuple[str, int]]:
    """Return source and number of each document that ``wanted`` names.

    Args:
        names: By source.
        wanted: ``NAME`` or the end of a path, ``SOURCE:NAME``, ``SOURCE:#NUMBER``, or ``#NUMBER``
            of the only source.

    Raises:
        NotFoundError: There is none, or the number is one of several sources.
    """
    before, colon, after = wanted.partition(":")
    # Paths and URLs hold colons too: it ends the name of a source only if there is one of that
    # name.
    of_source = colon and before in names
    sources = [before] if of_source else list(names)
    name = after if of_source else wanted
    # By name first, for a document may be called ``#17``.
    found = [(source, number) for source in sources for number in names[source].find(name)]
    if found:
        return found
    digits = name.removeprefix(NUMBER_SIGN)
    if name.startswith(NUMBER_SIGN) and digits.isdecimal():
        return [(_only(sources, wanted), _checked(names, sources[0], int(digits), wanted))]
    raise NotFoundError(
        f"document {wanted}",
        f"none of that name in the train split of {', '.join(sources)}",
        _expected([f"{source}:{near}" for source in sources for near in names[source].like(name)]),
        "`distrain data seen RUN --step N` and `distrain data sample RUN` show names.",
    )


def _expected(near: list[str]) -> str:
    if near:
        return f"a name such as {', '.join(near[:SHOWN_NAMES])}"
    return "the name of a document, or its number, such as #17"


def _only(sources: list[str], wanted: str) -> str:
    if len(sources) > 1:
        raise NotFoundError(
            f"document {wanted}",
            f"{len(sources)} sources that have documents of numbers: {', '.join(sources)}",
            "one source",
            f"Name it: {sources[0]}:{wanted}.",
        )
    return sources[0]


def _checked(names: Mapping[str, DocumentNames], source: str, number: int, wanted: str) -> int:
    count = names[source].tokens.num_documents
    if number >= count:
        raise NotFoundError(
            f"document {wanted}",
            f"number {number} in a train split of {count} documents",
            f"a number from 0 to {count - 1}",
            f"Correct it; `distrain data sample RUN --source {source}` shows numbers.",
        )
    return number
