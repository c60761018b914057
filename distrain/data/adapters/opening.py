"""Foreign token files as one stream: finding them, opening each, and a look at what they hold."""

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distrain.data.adapters import ADAPTERS, Adapter
from distrain.data.adapters.foreign import CHUNK, ForeignShard, Reading, refused
from distrain.data.shards.reader import ShardedTokens
from distrain.errors import DataError

SAMPLED_STRETCHES = 64
STRETCH_TOKENS = 4096
SAMPLED_DOCUMENTS = 256


class ForeignTokens(ShardedTokens):
    """The files of one format, one after the other. Made by ``open_files``."""

    shards: list[ForeignShard]

    def __init__(
        self, shards: list[ForeignShard], *, eos_id: int | None, vocab_size: int | None
    ) -> None:
        super().__init__(shards, eos_id=eos_id)
        self.vocab_size = vocab_size


def open_files(
    token_format: str, paths: Iterable[str], reading: Reading, *, vocab_size: int | None = None
) -> ForeignTokens:
    """Open foreign token files without copying them.

    Sizes, headers and document ends are checked in full; ids and the ends' own ids on a sample
    (``find_bad_id`` looks at all of a shard).

    Args:
        token_format: A key of ``ADAPTERS``.
        paths: Files, folders or globs; read in this order, and by name within each.
        reading: How to read them.
        vocab_size: Ids are below it; ``None``: unknown.

    Raises:
        DataError: A path names nothing, a file is damaged or of another form, or its ids are not
            those of the vocabulary.
    """
    adapter = ADAPTERS[token_format]
    files = find_token_files(paths, adapter)
    stream = ForeignTokens(
        [adapter.open_shard(file, reading) for file in files],
        eos_id=reading.eos_id,
        vocab_size=vocab_size,
    )
    if not stream.num_documents:
        raise refused(
            files[0],
            f"no token in {len(files)} file{'s' * (len(files) > 1)}",
            "at least one document",
            "Correct the path.",
        )
    # Wrong settings show in nearly every stretch, so a sample finds them; all ids would be a pass
    # over terabytes at each start.
    _check_sample(stream)
    _check_sampled_ends(stream)
    return stream


def find_token_files(patterns: Iterable[str], adapter: Adapter) -> list[Path]:
    """List the files of ids that ``patterns`` name, each once, in the order of the patterns.

    Raises:
        DataError: A pattern names none.
    """
    found: dict[Path, Path] = {}
    for pattern in patterns:
        for file in _expand(pattern, adapter):
            # By real path: what two patterns or a link name again must not be trained on twice.
            found.setdefault(file.resolve(), file)
    return list(found.values())


@dataclass(frozen=True)
class BadId:
    """An id that is no token of the vocabulary, and where it stands in its shard."""

    position: int
    token: int


def find_bad_id(
    stream: ShardedTokens,
    shard: int,
    vocab_size: int | None,
    start: int = 0,
    stop: int | None = None,
) -> BadId | None:
    """Return the first id in a shard's [start, stop) that is negative or not below the size."""
    tokens = stream.shards[shard]
    end = tokens.num_tokens if stop is None else stop
    for first in range(start, end, CHUNK):
        ids = tokens.tokens(first, min(end, first + CHUNK))
        limit = np.iinfo(ids.dtype).max if vocab_size is None else vocab_size - 1
        # Two reductions need no array of their own; the place is sought only where there is one.
        if ids.min() < 0 or ids.max() > limit:
            place = int(np.flatnonzero((ids < 0) | (ids > limit))[0])
            return BadId(first + place, int(ids[place]))
    return None


def bad_id_error(path: Path, bad: BadId, vocab_size: int | None) -> DataError:
    """Build the error for an id that no token of the vocabulary has."""
    return refused(
        path,
        f"id {bad.token} at token {bad.position}",
        "no negative id" if vocab_size is None else f"ids in [0, {vocab_size})",
        "Name the tokenizer that made these ids; if it is right, dtype is wrong or the file "
        "is damaged.",
    )


def ends_with_eos(stream: ShardedTokens, eos_id: int) -> tuple[int, int, int]:
    """Look at the last ids of a sample of documents, evenly taken.

    Returns:
        How many are ``eos_id``, of how many, and the most frequent one.
    """
    count = min(SAMPLED_DOCUMENTS, stream.num_documents)
    # Evenly, as files of different tools or settings may have been put in one folder.
    numbers = np.linspace(0, stream.num_documents - 1, count).astype(np.int64)
    last = []
    for number in numbers.tolist():
        shard, _, stop = stream.document_span(number)
        last.append(int(stream.shards[shard].tokens(stop - 1, stop)[0]))
    values, counts = np.unique(last, return_counts=True)
    return last.count(eos_id), count, int(values[counts.argmax()])


def _check_sample(stream: ForeignTokens) -> None:
    """Refuse ids that are no ids, as far as stretches evenly taken from the stream show them."""
    starts = np.linspace(0, max(0, stream.num_tokens - STRETCH_TOKENS), SAMPLED_STRETCHES)
    for start in np.unique(starts.astype(np.int64)).tolist():
        for number, first, stop in stream.pieces(start, start + STRETCH_TOKENS):
            bad = find_bad_id(stream, number, stream.vocab_size, first, stop)
            if bad is not None:
                raise bad_id_error(stream.shards[number].path, bad, stream.vocab_size)


def _check_sampled_ends(stream: ForeignTokens) -> None:
    if stream.eos_id is None:
        return
    matching, count, most = ends_with_eos(stream, stream.eos_id)
    if not matching:
        raise refused(
            stream.shards[0].path,
            f"{count} documents of which none ends with id {stream.eos_id}; most end with {most}",
            "documents that end with eos_id",
            f"Set eos_id to {most} if that id ends documents, else to null.",
        )


def _expand(pattern: str, adapter: Adapter) -> list[Path]:
    if "://" in pattern:
        raise DataError(
            pattern,
            "a URL",
            "local files, which are mapped and not copied",
            "Mount or copy them to a disk of this machine.",
        )
    # What exists is taken by its name first: ``[`` and ``*`` may be part of one.
    path = Path(pattern).expanduser()
    if path.is_dir():
        return _in_folder(path, adapter)
    file = adapter.locate(path)
    if file is not None and (file.is_file() or path.is_file()):
        return [file]  # an index without its ids is refused when the pair is opened
    wanted = f"files that end with {' or '.join(adapter.endings)}"
    if path.exists():
        raise refused(path, "another kind of file", wanted, "Correct the path or the format.")
    if not glob.has_magic(pattern):
        raise refused(
            path,
            f"no such file (looked for {path.absolute()})",
            f"a file, a folder or a glob of {wanted}",
            "Correct the path.",
        )
    found: list[Path] = []
    for match in sorted(glob.glob(str(path), recursive=True)):  # noqa: PTH207
        file = None if Path(match).is_dir() else adapter.locate(Path(match))
        found += [file] if file is not None else []
    if not found:
        raise refused(
            path,
            f"no file that matches (looked from {Path.cwd()})",
            wanted,
            "Correct the pattern; ** matches folders at any depth.",
        )
    return found


def _in_folder(folder: Path, adapter: Adapter) -> list[Path]:
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file()
        # Hidden names are caches and unfinished files of other tools.
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    for ending in adapter.endings:
        found = [file for file in files if file.suffix == ending]
        if found:
            return found
    raise refused(
        folder,
        f"a folder of {len(files)} files, none of which ends with {' or '.join(adapter.endings)}",
        "token files",
        "Correct the path or the format.",
    )
