"""Datasets of the Hugging Face hub, streamed file by file, and folders that ``save_to_disk`` wrote.

Data files on the hub are parquet most of the time; they are read by row groups, as other parquet
is. Files of other formats are read through the ``datasets`` library, each as a whole.
"""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from distrain.config.sources import FilesSection, HubSection, StoreSection
from distrain.data.sources.datasets import read_rows
from distrain.data.sources.document import Broken, SourceRow
from distrain.data.sources.files import FilesReader
from distrain.data.sources.ranges import InputFile, InputRange, whole_ranges
from distrain.data.sources.retries import describe, remote_errors, retry
from distrain.data.sources.row_request import RowRequest
from distrain.data.sources.storage import Storage, local_file
from distrain.errors import DataError

SAVED_SPLITS = "dataset_dict.json"
"""The file that ``save_to_disk`` writes above several splits."""
SAVED_FILES = "data-*.arrow"
REQUESTS = 16
"""At the same time, when the sizes of the files are asked for."""


class HubReader:
    """A source of kind ``hub``; ``.../train-00000.parquet:12`` is row 12."""

    def __init__(self, source: HubSection, range_bytes: int) -> None:
        self.source = source
        self.range_bytes = range_bytes
        self.storage = Storage.of(source)

    def files(self) -> list[InputFile]:
        """List the data files of the split, in the order of the dataset.

        Raises:
            DataError: There is no such dataset, configuration or split, or no answer.
        """
        if self._saved_files:
            return [local_file(file) for file in self._saved_files]
        # A dataset may have thousands of files, and each answer takes a tenth of a second.
        with ThreadPoolExecutor(REQUESTS) as pool:
            return list(pool.map(self.storage.stat, self._urls))

    def ranges(self, files: Sequence[InputFile]) -> list[InputRange]:
        """Cut between files; big parquet between row groups."""
        if self._files_reader is not None:
            return self._files_reader.ranges(files)
        return whole_ranges(files, self.range_bytes)

    def rows(self, part: InputRange, request: RowRequest) -> Iterator[SourceRow | Broken]:
        """Yield the rows of one range.

        Raises:
            DataError: A file changed or cannot be had, or there is no such column.
        """
        if self._files_reader is not None:
            yield from self._files_reader.rows(part, request)
            return
        rows = self._builder.as_streaming_dataset(split=self.source.split)
        if rows.num_shards != len(self._urls):
            raise self._wrong(
                f"{len(self._urls)} files that make {rows.num_shards} parts",
                "a dataset that can be read file by file",
                "Copy its files to this machine, and name them in a source of kind files.",
            )
        for file in part.files:
            # One part a file (checked above), so a range reads its own files and no others.
            shard = rows.shard(len(self._urls), self._urls.index(file.url))
            with self.storage.open(file):  # only to see that it is the one that was listed
                yield from read_rows(shard, file.url, request)

    @cached_property
    def _files_reader(self) -> FilesReader | None:
        """Return the reader of Arrow and parquet; ``None`` if the library has to read."""
        if self._saved_files:
            format_ = "arrow"
        # Read by us, who cut big files between row groups and ask stores again; the library does
        # not.
        elif type(self._builder).__module__.endswith(".parquet"):
            format_ = "parquet"
        else:
            return None
        shared = {name: getattr(self.source, name) for name in StoreSection.model_fields}
        settings = FilesSection.model_validate(
            {"kind": "files", "paths": (self.source.path,), "format": format_, **shared}
        )
        return FilesReader(settings, self.range_bytes)

    @cached_property
    def _saved_files(self) -> list[Path]:
        folder = Path(self.source.path).expanduser()
        if (folder / SAVED_SPLITS).is_file():
            splits = json.loads((folder / SAVED_SPLITS).read_text())["splits"]
            if self.source.split not in splits:
                raise self._no_split(splits)
            folder = folder / self.source.split
        # Their numbers have leading zeros: the order of names is that of the rows.
        return sorted(folder.glob(SAVED_FILES))

    @cached_property
    def _builder(self) -> Any:  # noqa: ANN401  (datasets has no annotations)
        import datasets  # a second, and pyarrow

        def request(timeout: float) -> Any:  # noqa: ANN401
            del timeout  # the library has its own
            return datasets.load_dataset_builder(
                self.source.path, self.source.name, revision=self.source.revision
            )

        try:
            return retry(self.source.path, request, self.source.retries)
        except (*remote_errors(), ValueError, datasets.exceptions.DatasetsError) as error:
            raise self._wrong(
                describe(error),
                "a dataset of the hub, or a folder of this machine that holds one",
                "Correct path, name or revision of the source; HF_TOKEN gives access to datasets "
                "that are not public.",
            ) from error

    @cached_property
    def _urls(self) -> list[str]:
        files = self._builder.config.data_files or {}
        if self.source.split not in files:
            raise self._no_split(list(files))
        return [str(file) for file in files[self.source.split]]

    def _no_split(self, splits: Sequence[str]) -> DataError:
        shown = ", ".join(splits) or "none"
        return self._wrong(
            f"no split {self.source.split}",
            f"one of its splits: {shown}",
            "Set split of the source to one of them.",
        )

    def _wrong(self, found: str, expected: str, remedy: str) -> DataError:
        return DataError("data.source", f"{self.source.path}: {found}", expected, remedy)
