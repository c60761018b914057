"""Curation of one document: a pure function of the document and the recipe's ``data`` section."""

from dataclasses import dataclass

from distrain.config.data import DataConfig
from distrain.data.document import Document
from distrain.data.preprocess.normalize import normalize
from distrain.data.preprocess.split import text_digest
from distrain.data.preprocess.words import TextView


@dataclass(frozen=True, slots=True)
class CleanText:
    """A document that is kept.

    Args:
        view: The final text, and what the filters computed of it; sketches go on from there.
        digest: ``text_digest`` of the final text: equal for equal texts.
    """

    path: str
    view: TextView
    digest: bytes

    @property
    def text(self) -> str:
        """The final text."""
        return self.view.text


@dataclass(frozen=True, slots=True)
class Rejected:
    """A document that is dropped.

    Args:
        reason: One of a few fixed words, the key under which it is counted.
        text: As it was when it was rejected, for the sample of rejections.
    """

    path: str
    reason: str
    text: str


class Cleaner:
    """What the ``data`` section of a recipe does to each document."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config

    def clean(self, document: Document) -> CleanText | Rejected:
        """Return the final text, or why there is none; the same on every machine."""
        # Files were checked as bytes; a row of a table may still hold what no text does.
        if "\0" in document.text:
            return Rejected(document.path, "nul_bytes", document.text)
        text = normalize(document.text) if self.config.curation.normalize else document.text
        if not text.strip() or len(text) < self.config.min_characters:
            return Rejected(document.path, "too_short" if text.strip() else "empty", text)
        try:
            digest = text_digest(text)
        except UnicodeEncodeError:  # half of a surrogate pair, as JSON may escape it
            return Rejected(document.path, "not_utf8", text)
        return CleanText(document.path, TextView(text), digest)
