"""What the report's pages are made of besides charts: large figures and tables."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One number that stands large."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under a header; the first columns are text, the others are numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    text_columns: int = 1
