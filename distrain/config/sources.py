"""Where raw text comes from: one section for each kind of source."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from distrain.config.curation import CurationConfig
from distrain.config.input_files import ENDINGS, ROW_ENDINGS, FileFormat
from distrain.config.section import Count, Duration, Section
from distrain.config.token_sources import TokenSource

REMOTE_MODULES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "hf": "huggingface_hub",
}
"""Protocol of a URL -> the module that fsspec needs for it."""


def protocol_of(path: str) -> str | None:
    """Return ``s3`` of ``s3://bucket/key``; None for a path of this machine."""
    protocol, separator, _ = path.partition("://")
    return protocol if separator and protocol not in {"file", "local"} else None


class RetriesConfig(Section):
    """How long to ask a remote store again after errors that may go away.

    Between two attempts lies a random part of a delay that doubles each time ("full jitter"), so
    that many processes do not come back at the same moment.
    """

    attempts: Annotated[int, Field(ge=1)] = 8
    """Of one request, the first one included."""
    first_delay_s: Annotated[float, Field(gt=0, le=30)] = 0.5
    """Longest delay after the first failure; no later one is longer than 30 s."""
    timeout: Annotated[Duration, Field(ge=1)] = 60
    """For one attempt."""
    deadline: Annotated[Duration, Field(ge=1)] = 300
    """For one request with all its attempts. Keep it below the time that peers wait."""


class SourceSection(Section):
    """What all sources have in common."""

    form: ClassVar[str] = "text"
    """See ``DataConfig.form_of``."""
    curation: CurationConfig | None = None
    """What is done to documents of this source; default: what ``data.curation`` says. Settings of
    the two are not mixed."""


class TextFields(SourceSection):
    """Where the text of a row is, of sources that are read as documents."""

    text_field: str = "text"
    """Field of a JSON line, or column of a table, that holds the text."""
    label_field: str | None = None
    """The one that holds the class of a labelled text; numbers are read as text."""


class StoreSection(Section):
    """What sources have in common that read files, here or in a store."""

    max_document_bytes: Annotated[Count, Field(ge=1)] = 256 * 2**20
    """A longer document is broken (``too_long``) and is not held in memory; so is a longer file of
    format ``json``."""
    storage_options: dict[str, Any] = Field(default_factory=dict)
    """For the store, as fsspec takes them (``endpoint_url``, ``anon``). No secrets: the recipe is
    copied into the run folder. Give those by the environment or the store's own files
    (``AWS_ACCESS_KEY_ID``, ``AWS_PROFILE``, ``GOOGLE_APPLICATION_CREDENTIALS``)."""
    retries: RetriesConfig = RetriesConfig()


class PythonStdlibSource(SourceSection):
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


MAX_PER_PREFIX = 20
"""Of manual pages and of packages whose names begin alike."""


class MachineTextsSource(PythonStdlibSource):
    """Texts of this machine: the standard library as ``python_stdlib``, and what else it has.

    That is manual pages (``/usr/share/man``) and descriptions of Debian packages; a machine without
    them has the standard library.
    """

    kind: Literal["machine_texts"]  # type: ignore[assignment]
    max_per_prefix: Annotated[int, Field(ge=1)] = MAX_PER_PREFIX
    """Manual pages, and packages, whose names are alike up to the first digit or sign (``git-add``,
    ``git-log``): of more, so many are taken evenly, so that no family outweighs the rest."""


class FilesSection(StoreSection):
    """Files of this machine or of a store, by path, folder, glob or URL."""

    endings: ClassVar[Mapping[str, str]] = ROW_ENDINGS
    """End of a file's name -> its format."""

    kind: Literal["files"]
    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    """Files, folders or globs; URLs of them: ``s3://``, ``gs://``, ``https://``; or
    ``package:MODULE/FILE``, of an installed package."""
    format: FileFormat | None = None
    """``text``: a file is a document; ``lines``: a line is one; ``json``: an array of objects.
    Default: by the name's ending: ``.jsonl .ndjson .parquet .csv .arrow .feather``, everything
    else is text (of examples, ``.json`` is JSON). All but parquet and arrow may be compressed:
    ``.gz``, ``.zst``."""


class DatasetsSection(StoreSection):
    """Files of any format that the ``datasets`` library reads."""

    kind: Literal["datasets"]
    format: str
    """Name of the builder: ``json``, ``csv``, ``parquet``, ``arrow`` or ``text``."""
    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    """Files, folders or globs of this machine."""


class HubSection(StoreSection):
    """A dataset of the Hugging Face hub, which is streamed, or one that ``save_to_disk`` wrote."""

    kind: Literal["hub"]
    path: str
    """A name on the hub, such as ``org/dataset``, or a folder of this machine."""
    name: str | None = None
    """The configuration of the dataset, if it has several."""
    split: str = "train"
    """Of the dataset, by the hub's name for it."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""


class FilesSource(TextFields, FilesSection):
    """Files of this machine or of a store, by path, folder, glob or URL."""

    endings: ClassVar[Mapping[str, str]] = ENDINGS


class DatasetsSource(TextFields, DatasetsSection):
    """Files of any format that the ``datasets`` library reads."""


class HubSource(TextFields, HubSection):
    """A dataset of the Hugging Face hub, which is streamed, or one that ``save_to_disk`` wrote."""


TextSource = PythonStdlibSource | MachineTextsSource | FilesSource | DatasetsSource | HubSource
"""Sources of documents, which the prepare stage cleans and tokenizes."""
Source = Annotated[TextSource | TokenSource, Field(discriminator="kind")]
