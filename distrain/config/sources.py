"""Where raw text comes from: one section for each kind of source."""

from typing import Annotated, Literal

from pydantic import Field

from distrain.config.section import Section


class PythonStdlibSource(Section):
    """The sources of this interpreter's standard library: real text that every machine has."""

    kind: Literal["python_stdlib"]
    exclude: tuple[str, ...] = (
        "test",
        "tests",
        "idle_test",
        "encodings",
        "pydoc_data",
        "site-packages",
    )
    """Folder names left out; ``encodings`` and ``pydoc_data`` are templated text."""


class FilesSource(Section):
    """Text files (one document each) or JSON lines, by path or glob."""

    kind: Literal["files"]
    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    """Files, folders or globs; ``.jsonl`` is read line by line, everything else as one document."""
    text_field: str = "text"
    """Field of a JSON line that holds the text."""


class DatasetsSource(Section):
    """Local files of any format that the ``datasets`` library reads."""

    kind: Literal["datasets"]
    format: str
    """Name of the builder: ``json``, ``csv``, ``parquet``, ``arrow`` or ``text``."""
    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    text_field: str = "text"


Source = Annotated[PythonStdlibSource | FilesSource | DatasetsSource, Field(discriminator="kind")]
