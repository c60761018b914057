"""Each rule of Rae et al. 2021, table A1, against its threshold and against a plain reference."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrain.config.curation import GopherRepetitionConfig
from distrain.data.curate.filters.gopher_repetition import (
    DUPLICATE_LENGTHS,
    SETTINGS,
    TOP_LENGTHS,
    gopher_repetition,
)
from distrain.data.curate.words import TextView

# Overlapping occurrences count each, so the share of a top n-gram may be above one.
NO_LIMIT = dict.fromkeys(GopherRepetitionConfig.model_fields, float("inf"))


def only(name, limit=None):
    """The section in which one setting alone can fail, by default at the published value."""
    published = GopherRepetitionConfig.model_fields[name].default
    limits = NO_LIMIT | {name: published if limit is None else limit}
    return GopherRepetitionConfig.model_construct(**limits)


def different(count, start=0):
    return [f"word{start + number:04d}" for number in range(count)]


def parts(separator, lengths, duplicates):
    """Several parts of so many characters, and the last one so many times more."""
    texts = [f"{number:04d}".ljust(length, "x") for number, length in enumerate(lengths)]
    return separator.join(texts + texts[-1:] * duplicates)


@pytest.mark.parametrize("kind", ["line", "paragraph"])
def test_the_published_share_of_duplicate_parts_is_the_boundary(kind):
    separator = "\n" if kind == "line" else "\n\n"
    config = only(f"max_duplicate_{kind}_fraction")
    assert gopher_repetition(TextView(parts(separator, [9] * 7, 3)), config) is None
    fails = gopher_repetition(TextView(parts(separator, [9] * 6, 4)), config)
    assert fails == f"max_duplicate_{kind}_fraction"


@pytest.mark.parametrize("kind", ["line", "paragraph"])
def test_the_published_share_of_characters_in_duplicate_parts_is_the_boundary(kind):
    separator = "\n" if kind == "line" else "\n\n"
    config = only(f"max_duplicate_{kind}_character_fraction")
    # Two parts of 20 again, in a text of 200 characters, and of 199.
    longest = 200 - 3 * 20 - 3 * len(separator)
    passes, fails = (parts(separator, [longest - less, 20], 2) for less in (0, 1))
    assert (len(passes), len(fails)) == (200, 199)
    assert gopher_repetition(TextView(passes), config) is None
    assert gopher_repetition(TextView(fails), config) == f"max_duplicate_{kind}_character_fraction"


def reference_top(words, n):
    counts = Counter(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
    ngram, count = counts.most_common(1)[0] if counts else ("", 0)
    return len(ngram) * count if count > 1 else 0


def reference_duplicate(words, n):
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


@given(
    st.lists(st.sampled_from(["a", "bb", "ccc", "d4", "!"]), min_size=1, max_size=60),
    st.sampled_from(sorted(SETTINGS)),
)
@settings(max_examples=300, deadline=None)
def test_ngram_fractions_are_those_of_a_plain_reference(words, n):
    text = " ".join(words)
    split = TextView(text).words
    reference = reference_top if n in TOP_LENGTHS else reference_duplicate
    fraction = reference(split, n) / len(text)
    assert gopher_repetition(TextView(text), only(SETTINGS[n], fraction)) is None
    if fraction > 0:
        below = only(SETTINGS[n], fraction - 1e-9)
        assert gopher_repetition(TextView(text), below) == SETTINGS[n]


@pytest.mark.parametrize("n", sorted(SETTINGS))
def test_the_published_share_of_ngrams_is_the_boundary(n):
    """One n-gram, ever more other words, and the n-gram again."""
    repeated = different(n, start=9000)
    limit = GopherRepetitionConfig.model_fields[SETTINGS[n]].default
    verdicts = {}
    for count in range(1, 200):
        words = [*repeated, *different(count), *repeated]
        text = " ".join(words)
        repeated_characters = 2 * len(" ".join(repeated)) if n in TOP_LENGTHS else 8 * n
        verdict = gopher_repetition(TextView(text), only(SETTINGS[n]))
        verdicts[count] = verdict
        assert verdict == (SETTINGS[n] if repeated_characters / len(text) > limit else None)
    assert set(verdicts.values()) == {None, SETTINGS[n]}


def test_the_order_is_from_whole_parts_to_ever_longer_ngrams():
    assert [*TOP_LENGTHS, *DUPLICATE_LENGTHS] == sorted(SETTINGS)
    text = parts("\n", [9] * 3, 9)
    assert (
        gopher_repetition(TextView(text), GopherRepetitionConfig()) == "max_duplicate_line_fraction"
    )


@pytest.mark.parametrize("text", ["", "one", "one two", "\n"])
def test_too_few_words_for_an_ngram_repeat_nothing(text):
    assert gopher_repetition(TextView(text), GopherRepetitionConfig()) is None
