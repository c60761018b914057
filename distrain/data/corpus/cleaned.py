"""Cleaned documents of one range on disk: a Parquet file, written whole or not at all.

Columns: ``text``, ``path``, ``split`` (place in ``SPLITS``), ``digest`` (16 bytes), ``text_bytes``,
``label`` (may be null), then one column for each quality figure. Row groups are cut by size of
text, so the bytes depend on the documents alone.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distrain.config.data import SPLITS
from distrain.data.curate.split import DIGEST_BYTES
from distrain.runs.durable import name_file

GROUP_BYTES = 4_000_000
"""Text in one row group: what a reader holds at a time."""
GROUP_ROWS = 50_000
COMPRESSION_LEVEL = 1
"""Of zstd; the file is read once or twice and then removed."""
COLUMNS = pa.schema(
    [
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("split", pa.uint8(), nullable=False),
        pa.field("digest", pa.binary(DIGEST_BYTES), nullable=False),
        pa.field("text_bytes", pa.int64(), nullable=False),
        pa.field("label", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class CleanDocument:
    """A document that is kept by layer 2, as far as one range can tell.

    Args:
        digest: ``text_digest`` of the text.
        quality: Figures of it by name; the same names for every document of a source.
    """

    text: str
    path: str
    split: str
    digest: bytes
    text_bytes: int
    label: str | None = None
    quality: Mapping[str, float] = field(default_factory=dict)


class CleanedWriter:
    """Writes the documents of one range; as a context, it leaves nothing behind unless closed.

    Args:
        path: The file, which comes to be with ``close``.
        quality: Names of the quality columns.
    """

    def __init__(self, path: Path, quality: Iterable[str] = ()) -> None:
        self.path = path
        self._quality = tuple(quality)
        self._schema = COLUMNS
        for name in self._quality:
            self._schema = self._schema.append(pa.field(name, pa.float32(), nullable=False))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._unfinished = path.with_name(f".{path.name}.unfinished")
        self._stream = self._unfinished.open("wb")
        self._writer = pq.ParquetWriter(
            self._stream,
            self._schema,
            compression="zstd",
            compression_level=COMPRESSION_LEVEL,
            # Texts and digests hardly repeat, and nobody filters rows by minimum and maximum.
            use_dictionary=["split", "label"],
            write_statistics=False,
        )
        self._documents: list[CleanDocument] = []
        self._text_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()  # it would be at some later time, into a file that is closed
        self._stream.close()
        self._unfinished.unlink(missing_ok=True)

    def add(self, document: CleanDocument) -> None:
        """Append a document."""
        self._documents.append(document)
        # By size of text and not by rows alone: what a reader holds is bounded, and where groups
        # end depends on the documents only.
        self._text_bytes += document.text_bytes
        if self._text_bytes >= GROUP_BYTES or len(self._documents) >= GROUP_ROWS:
            self._write_group()

    def close(self) -> int:
        """Make the file exist; returns its size in bytes."""
        if self._documents:
            self._write_group()
        self._writer.close()
        name_file(self._stream, self.path)
        return self.path.stat().st_size

    def _write_group(self) -> None:
        documents, self._documents, self._text_bytes = self._documents, [], 0
        columns: list[Any] = [
            [document.text for document in documents],
            # Parquet strings are UTF-8, and names of files need not be.
            [printable(document.path) for document in documents],
            [SPLITS.index(document.split) for document in documents],
            [document.digest for document in documents],
            [document.text_bytes for document in documents],
            [document.label for document in documents],
        ]
        columns += [[document.quality[name] for document in documents] for name in self._quality]
        arrays = [
            pa.array(values, field.type)
            for values, field in zip(columns, self._schema, strict=True)
        ]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))


def printable(path: str) -> str:
    """Return a name without the half surrogates by which Python keeps bytes that are no UTF-8."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@dataclass(frozen=True)
class Keys:
    """Digest, split and size of the N documents of a range.

    Args:
        digests: Shape (N, 16), uint8.
        splits: Places in ``SPLITS``, shape (N,), uint8.
        text_bytes: Shape (N,), int64.
    """

    digests: NDArray[np.uint8]
    splits: NDArray[np.uint8]
    text_bytes: NDArray[np.int64]


def read_keys(path: Path) -> Keys:
    """Read the small columns of a range."""
    table = pq.read_table(path, columns=["digest", "split", "text_bytes"], use_threads=False)
    digests = [
        # Straight from Arrow's memory: a ``bytes`` object for each of a billion documents would
        # take tens of gigabytes. Buffer 0 would tell nulls, of which this column has none.
        np.frombuffer(chunk.buffers()[1], np.uint8)[
            chunk.offset * DIGEST_BYTES : (chunk.offset + len(chunk)) * DIGEST_BYTES
        ]
        for chunk in table.column("digest").chunks
    ]
    return Keys(
        np.concatenate([np.zeros(0, np.uint8), *digests]).reshape(-1, DIGEST_BYTES),
        table.column("split").to_numpy(),
        table.column("text_bytes").to_numpy(),
    )


def read_column(path: Path, name: str) -> Any:  # noqa: ANN401  (pyarrow has no types)
    """Read one column of a range, a ``pyarrow.ChunkedArray``."""
    return pq.read_table(path, columns=[name], use_threads=False).column(name)


@dataclass(frozen=True)
class CleanedBatch:
    """A few megabytes of documents, by column.

    Args:
        first: Place of the first one in the range.
        columns: Quality figures by name.
    """

    first: int
    texts: list[str]
    paths: list[str]
    splits: NDArray[np.uint8]
    labels: list[str | None]
    columns: dict[str, NDArray[np.float32]]


def read_batches(path: Path) -> Iterator[CleanedBatch]:
    """Yield the documents of a range, one row group at a time."""
    with pq.ParquetFile(path) as file:
        quality = [name for name in file.schema_arrow.names if name not in COLUMNS.names]
        wanted = ["text", "path", "split", "label", *quality]
        first = 0
        for group in range(file.num_row_groups):
            # Ranges are read by one process a core: threads of Arrow would only compete.
            table = file.read_row_group(group, columns=wanted, use_threads=False)
            yield CleanedBatch(
                first,
                table.column("text").to_pylist(),
                table.column("path").to_pylist(),
                table.column("split").to_numpy(),
                table.column("label").to_pylist(),
                {name: table.column(name).to_numpy() for name in quality},
            )
            first += table.num_rows


def read_rows(path: Path, rows: Iterable[int]) -> Iterator[tuple[str, str]]:
    """Yield path and text of single documents, in ascending order."""
    wanted = sorted(rows)
    with pq.ParquetFile(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            stop = first + file.metadata.row_group(group).num_rows
            here = [row - first for row in wanted if first <= row < stop]
            # Groups without a wanted row are not even decompressed.
            if here:
                table = file.read_row_group(group, columns=["path", "text"], use_threads=False)
                for row in here:
                    yield table.column("path")[row].as_py(), table.column("text")[row].as_py()
            first = stop
