"""Our decisions and datatrove's on the same documents differ for the listed reasons alone.

Each reason is a change to datatrove: a function, a constant, an argument, or the text it gets.
With all of them it decides as we do, document by document, setting by setting, and leaves the same
text; with one of them left out, a document shows the difference. docs/curation.md lists the names.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from distrain.config.curation import FiltersConfig
from distrain.data.curate.characters import LEXICAL, UNICODE_LIMIT, character_tables
from distrain.data.curate.filters import FILTERS
from distrain.data.curate.filters.c4 import CITATIONS, END_MARKS, SENTENCE_ENDS
from distrain.data.curate.filters.fineweb import TERMINALS
from distrain.data.curate.words import TextView
from tests.distrain.data.real_texts import made_pages, real_texts

datatrove = pytest.importorskip("datatrove.data")
pytest.importorskip("spacy")  # the peer's own word split
filters = pytest.importorskip("datatrove.pipeline.filters")

SECTIONS = FiltersConfig.model_validate(
    {"gopher_quality": {}, "gopher_repetition": {}, "c4": {}, "fineweb": {}}
)
PEERS = {
    "gopher_quality": filters.GopherQualityFilter,
    "gopher_repetition": filters.GopherRepetitionFilter,
    "c4": filters.C4QualityFilter,
    "fineweb": filters.FineWebQualityFilter,
}
MODULES = {
    "gopher_quality": "datatrove.pipeline.filters.gopher_quality_filter",
    "gopher_repetition": "datatrove.pipeline.filters.gopher_repetition_filter",
    "c4": "datatrove.pipeline.filters.c4_filters",
    "fineweb": "datatrove.pipeline.filters.fineweb_quality_filter",
}
SETTINGS = {
    "gopher_short_doc": "min_words",
    "gopher_long_doc": "max_words",
    "gopher_below_avg_threshold": "min_mean_word_length",
    "gopher_above_avg_threshold": "max_mean_word_length",
    "gopher_too_many_hashes": "max_symbol_ratio",
    "gopher_too_many_ellipsis": "max_symbol_ratio",
    "gopher_too_many_bullets": "max_bullet_line_fraction",
    "gopher_too_many_end_ellipsis": "max_ellipsis_line_fraction",
    "gopher_below_alpha_threshold": "min_alphabetic_fraction",
    "gopher_enough_stop_words": "min_stop_words",
    "dup_line_frac": "max_duplicate_line_fraction",
    "dup_para_frac": "max_duplicate_paragraph_fraction",
    "dup_line_char_frac": "max_duplicate_line_character_fraction",
    "dup_para_char_frac": "max_duplicate_paragraph_character_fraction",
    **{f"top_{n}_gram": f"max_top_{n}gram_fraction" for n in (2, 3, 4)},
    **{f"duplicated_{n}_n_grams": f"max_duplicate_{n}gram_fraction" for n in range(5, 11)},
    "too_few_sentences": "min_sentences",
    "lorem_ipsum": "reject_lorem_ipsum",
    "curly_bracket": "reject_curly_bracket",
    "line_punct_ratio": "min_terminal_line_fraction",
    "short_line_ratio": "max_short_line_fraction",
    "char_dup_ratio": "max_duplicate_line_character_fraction",
    "list_ratio": "max_newline_ratio",
}


@dataclass(frozen=True)
class Difference:
    """What makes datatrove decide as we do, and a document that shows why it is needed."""

    filter: str
    example: str
    patches: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    text: Callable[[str], str] = str


class Symbols:
    """What is no part of a word for us."""

    flags = character_tables(UNICODE_LIMIT).flags

    def __contains__(self, character):
        return not self.flags[ord(character)] & LEXICAL


def top_of_repeated(ngrams):
    counts: dict[str, int] = {}
    for ngram in ngrams:
        counts[ngram] = counts.get(ngram, 0) + 1
    most = max(counts, key=counts.__getitem__)
    return len(most) * counts[most] if counts[most] > 1 else 0


def duplicates_word_by_word(words, n):
    seen, place, found = set(), 0, 0
    while place <= len(words) - n:
        ngram = tuple(words[place : place + n])
        if ngram in seen:
            found += sum(map(len, ngram))
            place += n
        else:
            seen.add(ngram)
            place += 1
    return found


def line_ends_to_spaces(text):
    return re.sub("[\x85\u2028\u2029]", " ", text)


def without_citations(text):
    """The lines as the rules after the removal of citations see them."""
    lines = []
    for line in text.split("\n"):
        line = CITATIONS.sub("", line.strip())
        lines.append("" if line[-1:].isspace() else line)  # ends in no mark: to be dropped
    return "\n".join(lines)


def our_words(text, language):
    return TextView(text).words


def our_sentences(line, language):
    return [line] * (1 + len(SENTENCE_ENDS.findall(line)))


PROSE = "that have the words of a sentence"
DIFFERENCES = {
    "quality: word split": Difference(
        "gopher_quality",
        "the words that don't " + "make fifty " * 22 + "of",
        patches={"split_into_words": our_words},
    ),
    "quality: symbols": Difference(
        "gopher_quality", f"{PROSE} " * 7 + "\u2192", patches={"PUNCTUATION_SET": Symbols()}
    ),
    "quality: line ends": Difference(
        "gopher_quality",
        f"{PROSE}" + f"\u2028- {PROSE}" * 20,
        text=line_ends_to_spaces,
    ),
    "repetition: word split": Difference(
        "gopher_repetition",
        "don't don't",
        patches={"split_into_words": our_words},
    ),
    "repetition: single n-grams": Difference(
        "gopher_repetition",
        "International standardization",
        patches={"find_top_duplicate": top_of_repeated},
    ),
    "repetition: word ends": Difference(
        "gopher_repetition",
        "ab cd ef gh ij abc d ef ghi j",
        patches={"find_all_duplicate": duplicates_word_by_word},
    ),
    "c4: limits": Difference(
        "c4",
        "Just three words. " * 3,
        arguments={"min_num_sentences": 3, "min_words_per_line": 5},
    ),
    "c4: quotation marks": Difference(
        "c4", f"{PROSE} 'so'\n" * 5, patches={"END_PUNCTUATION": END_MARKS}
    ),
    "c4: citations": Difference("c4", "There are four [1] words.\n" * 5, text=without_citations),
    "c4: sentences": Difference(
        "c4", f"{PROSE}.So {PROSE}.So {PROSE}.", patches={"split_into_sentences": our_sentences}
    ),
    "c4: line ends": Difference(
        "c4", f"{PROSE}\u2028{PROSE}. So it was. And so it is.", text=line_ends_to_spaces
    ),
    "fineweb: limits": Difference(
        "fineweb",
        "\n".join([f"{PROSE} {number}." for number in range(20)] + [f"{PROSE} 1."]),
        arguments={"char_duplicates_ratio": math.nextafter(0.1, 0), "new_line_ratio": math.inf},
    ),
    "fineweb: at the limit": Difference(
        "fineweb",
        "\n".join(f"{PROSE} {number}{'.' if number < 3 else ''}" for number in range(25)),
        arguments={
            "line_punct_thr": math.nextafter(0.12, 1),
            "short_line_thr": math.nextafter(0.67, 0),
            "short_line_length": 29,
        },
    ),
    "fineweb: sentence terminals": Difference(
        "fineweb", f"{PROSE} \u17da", arguments={"stop_chars": tuple(TERMINALS)}
    ),
}


def theirs(name, text, differences, patch):
    """The setting that datatrove finds failed, or the text it leaves, under some of the changes."""
    arguments: dict[str, Any] = {}
    for difference in differences:
        text = difference.text(text)
        arguments |= difference.arguments
        for attribute, value in difference.patches.items():
            patch.setattr(f"{MODULES[name]}.{attribute}", value)
    document = datatrove.Document(text=text, id="")
    verdict = PEERS[name](**arguments).filter(document)
    if verdict is True:
        return document.text
    return "min_terminal_line_fraction" if verdict[1] == "empty" else SETTINGS[verdict[1]]


def ours(name, text, differences):
    verdict = FILTERS[name](TextView(text), getattr(SECTIONS, name))
    if isinstance(verdict, str):
        return verdict
    left = verdict.text if verdict is not None else text
    for difference in differences:  # of changes to the text, those that are no part of the rules
        left = line_ends_to_spaces(left) if difference.text is line_ends_to_spaces else left
    return left


def differences_of(name, but=None):
    return [found for kind, found in DIFFERENCES.items() if found.filter == name and kind != but]


@pytest.fixture(scope="module")
def documents():
    texts = real_texts()
    return texts + made_pages(texts, 300) + [found.example for found in DIFFERENCES.values()]


@pytest.mark.data
@pytest.mark.parametrize("name", PEERS)
def test_with_the_listed_changes_datatrove_decides_as_we_do(name, documents, monkeypatch):
    changes = differences_of(name)
    seen = {"kept"}
    for text in documents:
        found = ours(name, text, changes)
        assert theirs(name, text, changes, monkeypatch) == found, text
        seen.add(found if found in SETTINGS.values() else "kept")
    assert len(documents) > 400
    assert len(seen) >= {"gopher_quality": 5, "gopher_repetition": 5, "c4": 4, "fineweb": 4}[name]


@pytest.mark.parametrize("kind", DIFFERENCES)
def test_without_one_of_the_changes_a_document_shows_the_difference(kind, monkeypatch):
    name, text = DIFFERENCES[kind].filter, DIFFERENCES[kind].example
    rest = differences_of(name, but=kind)
    with monkeypatch.context() as patch:
        assert theirs(name, text, rest, patch) != ours(name, text, rest)
    every = differences_of(name)
    assert theirs(name, text, every, monkeypatch) == ours(name, text, every)


def test_the_documentation_lists_these_differences_and_no_others():
    page = (Path(__file__).parents[5] / "docs" / "curation.md").read_text()
    table = page.split("## Differences from datatrove")[1].split("##")[0]
    listed = re.findall(r"^\| ((?:quality|repetition|c4|fineweb): [^|]+?) \|", table, re.MULTILINE)
    assert listed == list(DIFFERENCES)


@pytest.mark.data
@pytest.mark.parametrize("name", ["gopher_quality", "gopher_repetition"])
def test_with_its_own_word_split_datatrove_mostly_decides_the_same(name, monkeypatch):
    changes = differences_of(name, but=f"{name.split('_')[1]}: word split")

    def agreement(texts):
        same = 0
        for text in texts:
            decisions = [
                theirs(name, text, changes, monkeypatch) in SETTINGS.values(),
                ours(name, text, changes) in SETTINGS.values(),
            ]
            same += decisions[0] == decisions[1]
        return same / len(texts)

    technical = real_texts()
    assert agreement(made_pages(technical, 200)) >= 0.98  # prose
    assert agreement(technical) >= 0.75  # code, tables, markup
