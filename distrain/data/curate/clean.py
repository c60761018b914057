"""Curation of one document: a pure function of the document and the recipe's ``data`` section.

In this order: HTML to text, normalization, filters, personal data. Filters see the text as it will
be, but for replaced addresses.
"""

from dataclasses import dataclass

from distrain.config.data import DataConfig
from distrain.data.curate.filters import FILTERS
from distrain.data.curate.html import html_to_text
from distrain.data.curate.normalize import normalize
from distrain.data.curate.pii import replace_pii
from distrain.data.curate.split import text_digest
from distrain.data.curate.words import TextView
from distrain.data.sources.document import Document


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
        reason: The key under which it is counted: one of a few fixed words, or
            ``<filter>.<setting>``, the setting under ``data.curation.filters`` that it fails.
        text: As it was when it was rejected, for the sample of rejections.
    """

    path: str
    reason: str
    text: str


class Cleaner:
    """Cleans documents as the ``data`` section of a recipe asks."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        sections = config.curation.filters
        chosen = {name: getattr(sections, name) for name in FILTERS}
        self._filters = [
            (name, FILTERS[name], section)
            for name, section in chosen.items()
            if section is not None
        ]

    def clean(self, document: Document) -> CleanText | Rejected:
        """Return the final text, or why there is none; the same on every machine.

        Raises:
            DataError: The recipe asks for an optional library that is not installed.
        """
        curation = self.config.curation
        text = document.text
        if reason := _is_no_text(text):
            return Rejected(document.path, reason, text)
        if curation.html:
            text = html_to_text(text)
        if curation.normalize:
            text = normalize(text)
        # Before the filters: they cost the most, and rates of a few characters mean nothing.
        if reason := self._is_too_short(text):
            return Rejected(document.path, reason, text)
        view = self._filter(TextView(text))
        if isinstance(view, str):
            return Rejected(document.path, view, text)
        # Again, as a filter may have dropped lines.
        if reason := self._is_too_short(view.text):
            return Rejected(document.path, reason, view.text)
        if curation.pii is not None:
            replaced = replace_pii(view.text, curation.pii)
            # Mostly nothing was replaced; the view keeps the words that sketches are made of.
            view = view if replaced == view.text else TextView(replaced)
        return CleanText(document.path, view, text_digest(view.text))

    def _filter(self, view: TextView) -> TextView | str:
        for name, check, section in self._filters:
            verdict = check(view, section)
            if isinstance(verdict, str):
                return f"{name}.{verdict}"
            view = view if verdict is None else verdict
        return view

    def _is_too_short(self, text: str) -> str | None:
        if not text or text.isspace():
            return "empty"
        return "too_short" if len(text) < self.config.min_characters else None


def _is_no_text(text: str) -> str | None:
    # Files were checked as bytes; a row of a table may still hold what no text does.
    if "\0" in text:
        return "nul_bytes"
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON may escape it
        return "not_utf8"
    return None
