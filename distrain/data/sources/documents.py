"""Documents of a source: its rows, of which a field is the text."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from distrain.config.sources import TextFields
from distrain.data.sources.document import Broken, Document, SourceRow, decode_document
from distrain.data.sources.lines import label_of
from distrain.data.sources.ranges import InputFile, InputRange, RowReader
from distrain.data.sources.row_request import RowRequest


class DocumentReader:
    """Layer 1's interface for texts: list, cut, read."""

    def __init__(self, rows: RowReader, fields: TextFields, max_bytes: int) -> None:
        self._rows = rows
        self._fields = fields
        self._max_bytes = max_bytes

    def files(self) -> list[InputFile]:
        """List what there is to read; see ``RowReader.files``."""
        return self._rows.files()

    def ranges(self, files: Sequence[InputFile]) -> list[InputRange]:
        """Cut ``files``; see ``RowReader.ranges``."""
        return self._rows.ranges(files)

    def read(self, part: InputRange) -> Iterator[Document | Broken]:
        """Yield what one range holds, in order; the same each time.

        Raises:
            DataError: A file changed since it was listed, or cannot be had; or a field of the
                recipe is no column.
        """
        fields = self._fields
        named = {"text_field": fields.text_field, "label_field": fields.label_field}
        columns = {setting: name for setting, name in named.items() if name is not None}
        request = RowRequest(self._max_bytes, columns, fields.text_field)
        yield from documents(self._rows.rows(part, request), fields, self._max_bytes)


def documents(
    rows: Iterable[SourceRow | Broken], fields: TextFields, max_bytes: int
) -> Iterator[Document | Broken]:
    """Yield the document of each row, or why it has none."""
    for row in rows:
        yield row if isinstance(row, Broken) else document_of(row, fields, max_bytes)


def document_of(row: SourceRow, fields: TextFields, max_bytes: int) -> Document | Broken:
    """Return the text of a row with its label."""
    if not isinstance(row.fields, dict):
        return Broken(row.path, "no_text_field")
    text: Any = row.fields.get(fields.text_field)
    label = None
    if fields.label_field is not None:
        label = label_of(row.fields.get(fields.label_field))
    if isinstance(text, bytes):
        if len(text) > max_bytes:
            return Broken(row.path, "too_long")
        return decode_document(text, row.path, label)
    reason = _no_document(text, max_bytes)
    return Document(text, row.path, label) if reason is None else Broken(row.path, reason)


def _no_document(text: object, max_bytes: int) -> str | None:
    if not isinstance(text, str):
        return "no_text_field"
    # A character has at most four bytes.
    if 4 * len(text) > max_bytes and len(text.encode(errors="replace")) > max_bytes:
        return "too_long"
    if "\0" in text:
        return "nul_bytes"
    return None if is_encodable(text) else "not_utf8"


def is_encodable(text: str) -> bool:
    """Return whether a text is one: JSON lets half of a surrogate pair through."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
