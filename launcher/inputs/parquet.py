"""Names of the columns of a parquet file, from its footer, without pyarrow.

The footer is a ``FileMetaData`` in Thrift's compact protocol; of its fields, only the second, the
list of schema elements, is read (Apache Parquet, ``parquet.thrift``; Thrift, compact protocol).
"""

from collections.abc import Iterator
from pathlib import Path

MAGIC = b"PAR1"
MAX_FOOTER_BYTES = 2**25
TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
SCHEMA_FIELD, NAME_FIELD, CHILDREN_FIELD = 2, 4, 5


def parquet_columns(file: Path) -> list[str] | None:
    """Return the top-level columns; ``None`` if the footer cannot be read."""
    try:
        with file.open("rb") as stream:
            stream.seek(-8, 2)
            tail = stream.read()
            size = int.from_bytes(tail[:4], "little")
            if tail[4:] != MAGIC or size > MAX_FOOTER_BYTES:
                return None
            stream.seek(-8 - size, 2)
            return _columns(_Compact(stream.read(size)))
    except (OSError, ValueError, IndexError, RecursionError):
        return None


class _Compact:
    """Reads values of the compact protocol, from the front."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.place = 0

    def byte(self) -> int:
        self.place += 1
        return self.content[self.place - 1]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    def integer(self) -> int:
        value = self.varint()
        return value >> 1 ^ -(value & 1)  # zigzag

    def binary(self) -> bytes:
        return self.take(self.varint())

    def take(self, size: int) -> bytes:
        self.place += size
        if self.place > len(self.content):  # or a list could go on for ever behind the end
            raise ValueError("a value longer than the footer")
        return self.content[self.place - size : self.place]

    def fields(self) -> Iterator[tuple[int, int]]:
        """Yield number and type of each field of a struct; the caller reads or skips the value."""
        number = 0
        while header := self.byte():
            delta, kind = header >> 4, header & 0x0F
            number = number + delta if delta else self.integer()
            yield number, kind

    def list_size(self) -> tuple[int, int]:
        header = self.byte()
        size = header >> 4
        return (self.varint() if size == 0x0F else size), header & 0x0F

    def skip(self, kind: int) -> None:
        if kind in (TRUE, FALSE):
            return
        if kind in (BYTE, DOUBLE):
            self.take(1 if kind == BYTE else 8)
        elif kind == BINARY:
            self.binary()
        elif kind in (LIST, SET):
            size, inner = self.list_size()
            for _ in range(size):
                self.skip(inner if inner not in (TRUE, FALSE) else BYTE)
        elif kind == STRUCT:
            for _, inner in self.fields():
                self.skip(inner)
        elif kind == MAP:
            raise ValueError("no field before the schema is a map")
        else:
            self.varint()


def _columns(reader: _Compact) -> list[str] | None:
    for number, kind in reader.fields():
        if number != SCHEMA_FIELD or kind != LIST:
            reader.skip(kind)
            continue
        size, _ = reader.list_size()
        elements = [_element(reader) for _ in range(size)]
        return list(_children(elements))
    return None


def _element(reader: _Compact) -> tuple[str, int]:
    """Read name and number of children of a schema element."""
    name, children = "", 0
    for number, kind in reader.fields():
        if number == NAME_FIELD and kind == BINARY:
            name = reader.binary().decode()
        elif number == CHILDREN_FIELD:
            children = reader.integer()
        else:
            reader.skip(kind)
    return name, children


def _children(elements: list[tuple[str, int]]) -> Iterator[str]:
    """Yield the names right below the root, the first element; the list is depth first."""
    pending = 0  # elements that belong to the column before
    for name, children in elements[1:]:
        if not pending:
            yield name
        else:
            pending -= 1
        pending += children
