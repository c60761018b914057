import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrain.data.curate import words
from distrain.data.curate.characters import (
    ALPHABETIC,
    ASCII_LIMIT,
    DIGIT,
    NARROW_LIMIT,
    UNICODE_LIMIT,
    WORD,
    character_tables,
)
from distrain.data.curate.words import ADDRESSES, TextView, roll, split_words

GOLDEN_WORDS = [
    "71dd286b4e64d39a",
    "e95eb829f8646e92",
    "cc06c31652ebf438",
    "67e279f248d8d97c",
    "3b4c4f3a2e1463a0",
    "ca38cea2683c551f",
    "05582d37111ac529",
]
GOLDEN_SHINGLE = "527b271db42165d3"
CHARACTERS = st.text(
    st.one_of(st.sampled_from("ab1 .,'\u2019\n-…é人カ्ह"), st.characters()), max_size=60
)
TEXT = st.lists(st.sampled_from(["http://", "a.b/", " "]) | CHARACTERS, max_size=4).map("".join)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop.", ["Don't", "stop", "."]),
        ("the dog\u2019s 'x'", ["the", "dog\u2019s", "'", "x", "'"]),
        ("1,000.5 a.b 3.", ["1,000.5", "a", ".", "b", "3", "."]),
        ("wait... (so?!)", ["wait", "...", "(", "so", "?", "!", ")"]),
        ("(see https://a.b/c?d=e-f#g.)", ["(", "see", "https://a.b/c?d=e-f#g", ".", ")"]),
        ("xhttp://a, file://b", ["xhttp://a", ",", "file", ":", "//", "b"]),
        ("well-known snake_case", ["well", "-", "known", "snake_case"]),
        ("人人间 カ", ["人人", "间", "カ"]),
        ("人'a a'人", ["人", "'", "a", "a", "'", "人"]),
        ("हिन्दी नमस्ते", ["हिन्दी", "नमस्ते"]),
        ("a\u200bb soft\u00adhyphen", ["a", "b", "soft\u00adhyphen"]),
        ("half \ud800 pair", ["half", "\ud800", "pair"]),
        ("'", ["'"]),
        ("", []),
        (" \n\t", []),
    ],
)
def test_the_split_is_the_one_described(text, expected):
    assert TextView(text).words == expected


def reference_words(text):
    """The rules of the module's docstring, a character at a time."""
    table = character_tables(UNICODE_LIMIT)
    groups = [int(table.group[ord(character)]) for character in text]
    flags = [table.flags[code] if table.group[code] == WORD else 0 for code in map(ord, text)]
    for place in range(1, len(text) - 1):
        joined = {"'": ALPHABETIC, "\u2019": ALPHABETIC, ".": DIGIT, ",": DIGIT}.get(text[place], 0)
        if flags[place - 1] & flags[place + 1] & joined:
            groups[place] = WORD
    for address in ADDRESSES.finditer(text):
        groups[address.start() : address.end()] = [WORD] * len(address[0])
    found: list[str] = []
    before = 0
    for character, group in zip(text, groups, strict=True):
        if group and group == before:
            found[-1] += character
        elif group:
            found.append(character)
        before = group
    return found


@given(TEXT)
@settings(max_examples=300, deadline=None)
def test_the_split_is_that_of_a_slow_reference(text):
    assert TextView(text).words == reference_words(text)


@given(st.lists(TEXT, min_size=1, max_size=4))
@settings(deadline=None)
def test_words_have_equal_hashes_just_when_they_are_equal(texts):
    words_of: dict[int, str] = {}
    hashes_of: dict[str, int] = {}
    for text in texts:
        view = TextView(text)
        for word, key in zip(view.words, view.word_hashes.tolist(), strict=True):
            assert hashes_of.setdefault(word, key) == key
            assert words_of.setdefault(key, word) == word


@given(TEXT, st.integers(1, 6))
@settings(deadline=None)
def test_ngrams_have_equal_hashes_just_when_their_words_are_equal(text, n):
    view = TextView(text)
    ngrams = [tuple(view.words[i : i + n]) for i in range(len(view.words) - n + 1)]
    hashes = view.ngram_hashes(n).tolist()
    assert len(set(zip(ngrams, hashes, strict=True))) == len(set(ngrams)) == len(set(hashes))


@given(st.text(st.sampled_from("ab1' .é人"), max_size=200))
@settings(deadline=None)
def test_a_text_longer_than_a_chunk_has_the_words_and_hashes_of_a_short_one(text):
    whole = split_words(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "CHUNK_CHARACTERS", 16)
        pieces = split_words(text)
    if max(map(len, text.split()), default=0) < 16:
        for name in ("starts", "ends", "flags", "hashes", "lower_hashes"):
            np.testing.assert_array_equal(getattr(whole, name), getattr(pieces, name))
    spans = zip(pieces.starts, pieces.ends, strict=True)
    assert "".join(text[a:b] for a, b in spans) == "".join(text.split())


def test_a_word_of_a_million_letters_is_cut_and_nothing_is_lost():
    view = TextView("x" * 1_000_000)
    assert sum(map(len, view.words)) == 1_000_000
    assert len(view.words) == -(-1_000_000 // words.CHUNK_CHARACTERS)


def test_shingles_see_neither_case_nor_punctuation_nor_white_space():
    shingles = TextView("One, two: THREE\nfour - five six").shingle_hashes(5)
    assert shingles.tolist() == TextView("one two three four five six").shingle_hashes(5).tolist()
    assert shingles.size == 2
    assert TextView("One, two").shingle_hashes(5).size == 1
    assert TextView("!?").shingle_hashes(5).size == 0


def test_hashes_are_the_same_on_every_machine_and_in_every_version():
    view = TextView("Don't panic, 42 мир 人!")
    assert [f"{key:016x}" for key in view.word_hashes.tolist()] == GOLDEN_WORDS
    assert f"{int(view.shingle_hashes(5)[0]):016x}" == GOLDEN_SHINGLE


def test_rolled_hashes_depend_on_order():
    hashes = np.array([3, 5], np.uint64)
    assert roll(hashes, 2) != roll(hashes[::-1], 2)


def test_lines_and_paragraphs():
    view = TextView("one\n\n \ntwo\nthree\n\n\n\nfour")
    assert view.lines == ["one", "two", "three", "four"]
    assert view.paragraphs == ["one", " \ntwo\nthree", "four"]


def test_tables_of_all_limits_agree():
    wide = character_tables(UNICODE_LIMIT)
    for limit in (ASCII_LIMIT, NARROW_LIMIT):
        table = character_tables(limit)
        for name in ("group", "flags", "hashes", "lower_hashes"):
            np.testing.assert_array_equal(getattr(table, name), getattr(wide, name)[:limit])


def test_no_character_above_the_listed_planes_is_anything_but_what_the_tables_say():
    tables = character_tables(UNICODE_LIMIT)
    for code in range(0x20000, UNICODE_LIMIT):
        category = unicodedata.category(chr(code))
        assert category in {"Lo", "Mn", "Cf", "Cn", "Co"}
        if category == "Lo":
            assert tables.flags[code]
        if category == "Mn":
            assert tables.group[code] == WORD
