"""What is asked of a reader of rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field

TEXT = "text"


@dataclass(frozen=True, slots=True)
class RowRequest:
    """Which columns are read, and how long a row may be.

    Args:
        max_bytes: Of a line, a record of CSV, or a whole file of text or JSON; what is longer is
            ``too_long``, and is not held in memory.
        columns: Setting of the recipe -> column of a table; ``None``: every column there is.
        text_name: Name of the field that holds a line or a file of plain text.
    """

    max_bytes: int
    columns: Mapping[str, str] | None = field(default=None)
    text_name: str = TEXT
