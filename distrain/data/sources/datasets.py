"""Files of this machine in any format that the ``datasets`` library reads, row by row."""

import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

from distrain.config.sources import DatasetsSection, protocol_of
from distrain.data.sources.document import Broken, SourceRow
from distrain.data.sources.paths import list_files
from distrain.data.sources.ranges import InputFile, InputRange, whole_ranges
from distrain.data.sources.row_request import RowRequest
from distrain.data.sources.storage import Storage
from distrain.data.sources.tables import BATCH_ROWS, check_columns, from_columns
from distrain.errors import DataError


class DatasetsReader:
    """A source of kind ``datasets``; ``pages.parquet:12`` is row 12."""

    def __init__(self, source: DatasetsSection, range_bytes: int) -> None:
        self.source = source
        self.range_bytes = range_bytes
        self.storage = Storage.of(source)

    def files(self) -> list[InputFile]:
        """List the files by path.

        Raises:
            DataError: A path names nothing, or a place that is not on this machine.
        """
        # The library would download them by its own rules, without our retries and versions.
        remote = [path for path in self.source.paths if protocol_of(path) is not None]
        if remote:
            raise DataError(
                "data.source.paths",
                f"{remote[0]} in a source of kind datasets",
                "files of this machine",
                "Use a source of kind files; it reads parquet, jsonl, csv and arrow from stores.",
            )
        return list_files(self.source.paths, self.storage)

    def ranges(self, files: Sequence[InputFile]) -> list[InputRange]:
        """Cut between files."""
        # The library reads a file from its beginning: a part of one would cost as much as all of
        # it.
        return whole_ranges(files, self.range_bytes)

    def rows(self, part: InputRange, request: RowRequest) -> Iterator[SourceRow | Broken]:
        """Yield the rows of one range.

        Raises:
            DataError: The format is unknown, a file is not of that format, or there is no such
                column.
        """
        import datasets  # a second, and pyarrow

        # The library would look for an unknown format on the network.
        if importlib.util.find_spec(f"datasets.packaged_modules.{self.source.format}") is None:
            raise self._unreadable("an unknown format")
        for file in part.files:
            try:
                with self.storage.open(file):  # only to see that it is the one that was listed
                    rows = datasets.load_dataset(
                        self.source.format, data_files=[file.url], split="train", streaming=True
                    )
                    yield from read_rows(rows, file.url, request)
            except (OSError, datasets.exceptions.DatasetsError) as error:
                raise self._unreadable(f"{file.url} ({error})") from error
            except ValueError as error:  # pyarrow's and pandas' parse errors are ValueErrors
                message = f"{file.url}, which is not {self.source.format} ({error})"
                raise self._unreadable(message) from error

    def _unreadable(self, found: str) -> DataError:
        return DataError(
            "data.source",
            found,
            f"local files of a format that datasets reads, here {self.source.format}",
            "Set data.source.format to json, csv, parquet, arrow or text, or repair the file.",
        )


def read_rows(rows: Any, name: str, request: RowRequest) -> Iterator[SourceRow]:  # noqa: ANN401
    """Yield the rows of an ``IterableDataset`` as ``name:0``, ``name:1``, ...

    Raises:
        DataError: A field of the recipe is no column.
    """
    row = 0
    for batch in rows.with_format("arrow").iter(BATCH_ROWS):
        columns = check_columns(batch.column_names, f"{name}:{row}", request)
        yield from from_columns(batch.select(columns), row, name)
        row += batch.num_rows
