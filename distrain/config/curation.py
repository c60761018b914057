"""Sections of layer 2's curation: what is done to one document before it is split and tokenized.

Every default is the published value; ``docs/curation.md`` says where other programs differ.
"""

from typing import Annotated, Self

from pydantic import Field, model_validator

from distrain.config.section import Count, Section, check_limits

WORD = r"^\w+$"
Word = Annotated[str, Field(pattern=WORD)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class LanguageConfig(Section):
    """Keep documents of some languages (fastText's lid.176, quantized)."""

    keep: Annotated[tuple[str, ...], Field(min_length=1)] = ("en",)
    """ISO 639-1 codes, or 639-3 where there is no shorter one."""
    min_score: Fraction = 0.65
    """Probability that the document is of one of these languages; FineWeb's value."""


class GopherQualityConfig(Section):
    """Rae et al. 2021 (arXiv 2112.11446), appendix A.1.1, quality filtering."""

    min_words: Annotated[Count, Field(ge=0)] = 50
    """Words without punctuation."""
    max_words: Annotated[Count, Field(ge=1)] = 100_000
    """As ``min_words``."""
    min_mean_word_length: Annotated[float, Field(ge=0)] = 3
    """Characters; of words without punctuation."""
    max_mean_word_length: Annotated[float, Field(gt=0)] = 10
    """As ``min_mean_word_length``."""
    max_symbol_ratio: Annotated[float, Field(ge=0)] = 0.1
    """Hash signs to words, and ellipses to words, punctuation counted as words."""
    max_bullet_line_fraction: Fraction = 0.9
    """Lines that begin with a bullet."""
    max_ellipsis_line_fraction: Fraction = 0.3
    """Lines that end in an ellipsis."""
    min_alphabetic_fraction: Fraction = 0.8
    """Words that hold a letter, of all words with punctuation."""
    min_stop_words: Annotated[int, Field(ge=0)] = 2
    """Different ones, as they are written."""
    stop_words: tuple[Word, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")
    """English by default; each is a single word."""

    @model_validator(mode="after")
    def _limits_leave_room(self) -> Self:
        check_limits(self, "min_words", "max_words")
        check_limits(self, "min_mean_word_length", "max_mean_word_length")
        if self.min_stop_words > len(set(self.stop_words)):
            raise ValueError(
                f"min_stop_words {self.min_stop_words} of {len(set(self.stop_words))} stop words "
                "drops every document; lower it, or name more stop_words"
            )
        return self


class GopherRepetitionConfig(Section):
    """Rae et al. 2021 (arXiv 2112.11446), table A1: what repeats too much is dropped."""

    max_duplicate_line_fraction: Fraction = 0.3
    """Lines that were there before, of all lines."""
    max_duplicate_paragraph_fraction: Fraction = 0.3
    """Paragraphs that were there before, of all."""
    max_duplicate_line_character_fraction: Fraction = 0.2
    """Share of the characters in lines that were there before."""
    max_duplicate_paragraph_character_fraction: Fraction = 0.2
    """Share of the characters in paragraphs that were there before."""
    max_top_2gram_fraction: Fraction = 0.2
    """Share of the characters that all occurrences of the most frequent pair of words may hold."""
    max_top_3gram_fraction: Fraction = 0.18
    """As for pairs, of three words."""
    max_top_4gram_fraction: Fraction = 0.16
    """As for pairs, of four words."""
    max_duplicate_5gram_fraction: Fraction = 0.15
    """Share of the characters in runs of five words that were there before."""
    max_duplicate_6gram_fraction: Fraction = 0.14
    """As for five words, of six."""
    max_duplicate_7gram_fraction: Fraction = 0.13
    """As for five words, of seven."""
    max_duplicate_8gram_fraction: Fraction = 0.12
    """As for five words, of eight."""
    max_duplicate_9gram_fraction: Fraction = 0.11
    """As for five words, of nine."""
    max_duplicate_10gram_fraction: Fraction = 0.1
    """As for five words, of ten."""


class C4Config(Section):
    """Raffel et al. 2020 (JMLR 21), section 2.2, and its code: drops lines, and whole documents."""

    require_terminal_punctuation: bool = True
    """Drop lines that do not end in one of ``. ? ! "``, or that end in an ellipsis."""
    min_words_per_line: Annotated[int, Field(ge=0)] = 5
    """Shorter lines are dropped."""
    max_word_characters: Annotated[int, Field(ge=1)] = 1000
    """Lines with a longer word are dropped."""
    min_sentences: Annotated[int, Field(ge=0)] = 3
    """In the lines that are kept."""
    remove_citations: bool = True
    """``[1]``, ``[edit]`` and ``[citation needed]``."""
    remove_javascript: bool = True
    """Drop lines that name it."""
    remove_policy: bool = True
    """Drop lines about cookies, terms of use or privacy policies."""
    reject_lorem_ipsum: bool = True
    """Drop documents that contain the phrase."""
    reject_curly_bracket: bool = True
    """Drop documents with a ``{``, which are mostly code."""


class FinewebConfig(Section):
    """Penedo et al. 2024 (arXiv 2406.17557), section 3.6."""

    min_terminal_line_fraction: Fraction = 0.12
    """A document is dropped unless more lines than this end in terminal punctuation."""
    short_line_characters: Annotated[int, Field(ge=1)] = 30
    """A line of fewer is short."""
    max_short_line_fraction: Fraction = 0.67
    """A document is dropped unless fewer lines than this are short."""
    max_duplicate_line_character_fraction: Fraction = 0.1
    """A document is dropped unless fewer characters than this are in repeated lines."""
    max_newline_ratio: Annotated[float, Field(ge=0)] | None = None
    """Line feeds to words. No part of the paper; datatrove has 0.3."""


class FiltersConfig(Section):
    """Filters by name, applied in this order; none unless it is named (``c4: {}`` is enough)."""

    language: LanguageConfig | None = None
    gopher_quality: GopherQualityConfig | None = None
    gopher_repetition: GopherRepetitionConfig | None = None
    c4: C4Config | None = None
    fineweb: FinewebConfig | None = None


class PiiConfig(Section):
    """Personal data to replace. What replaces a match depends on the match alone."""

    emails: bool = True
    """E-mail addresses."""
    ip_addresses: bool = True
    """Those that are routed in the public internet; private ones stay."""
    phone_numbers: bool = False
    """Numbers in international form, ``+`` first."""
    card_numbers: bool = False
    """13 to 19 digits that pass the check of Luhn."""


class CurationConfig(Section):
    """Per-document curation; everything but normalization is off unless it is named."""

    html: bool = False
    """Documents are HTML: take the main content's text."""
    normalize: bool = True
    """NFC, one kind of line end, no control characters, no white space before a line end."""
    filters: FiltersConfig = FiltersConfig()
    pii: PiiConfig | None = None
