"""Local files of any format that the ``datasets`` library reads, one document a row."""

import os
from collections.abc import Iterator
from typing import Any

from distrain.config.sources import DatasetsSource
from distrain.data.document import Broken, Document
from distrain.data.sources.paths import find_files
from distrain.errors import DataError


def read_datasets(source: DatasetsSource) -> Iterator[Document | Broken]:
    """Yield the rows file by file; ``pages.parquet:12`` is the document in row 12.

    Raises:
        DataError: A path names nothing, the format is unknown, a file is not of that format, or
            no row has the text field.
    """
    # The library would look for an unknown format on the network; the name must be read before
    # its first import.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import datasets  # a second, and pyarrow

    for file in find_files(source.paths):
        try:
            rows = datasets.load_dataset(
                source.format, data_files=[str(file)], split="train", streaming=True
            )
            for number, row in enumerate(rows):
                yield _from_row(row, f"{file.as_posix()}:{number}", source)
        except (OSError, datasets.exceptions.DatasetsError) as error:
            raise _unreadable(source, f"{file} ({error})") from error
        except ValueError as error:  # pyarrow's and pandas' parse errors are ValueErrors
            raise _unreadable(source, f"{file}, which is not {source.format} ({error})") from error


def _from_row(row: dict[str, Any], path: str, source: DatasetsSource) -> Document | Broken:
    if source.text_field not in row:
        raise DataError(
            "data.source.text_field",
            f"'{source.text_field}', while {path} has {', '.join(row) or 'no fields'}",
            "a field of the rows",
            f"Set data.source.text_field to one of: {', '.join(row)}.",
        )
    text = row[source.text_field]
    return Document(text, path) if isinstance(text, str) else Broken(path, "no_text_field")


def _unreadable(source: DatasetsSource, found: str) -> DataError:
    return DataError(
        "data.source",
        found,
        f"local files of a format that datasets reads, here {source.format}",
        "Set data.source.format to json, csv, parquet, arrow or text, or repair the file.",
    )
