"""Each rule of Rae et al. 2021, A.1.1, on either side of its published threshold."""

import pytest

from distrain.config.curation import GopherQualityConfig
from distrain.data.curate.filters.gopher_quality import gopher_quality
from distrain.data.curate.words import TextView


def verdict(text, **settings):
    return gopher_quality(TextView(text), GopherQualityConfig(**settings))


def words(count, *others):
    return " ".join([*["the", "that", "words"] * 50][: count - len(others)] + list(others))


def lines(*endings, start=""):
    return "\n".join(f"{start}the words that we have here{ending}" for ending in endings)


BOUNDARIES = [
    ("min_words", words(49), words(50)),
    ("min_words", words(40, *"!?.," * 10), words(55, "!")),
    ("max_words", "the that " * 50_000 + "more", "the that " * 50_000),
    ("min_mean_word_length", "the and " * 25 + "of", "the and " * 25),
    # 3 + 4 + 48 words with 493 characters: 10 on average.
    (
        "max_mean_word_length",
        "the that " + "tencharact " * 34 + "elevenchara " * 14,
        "the that " + "tencharact " * 35 + "elevenchara " * 13,
    ),
    ("max_symbol_ratio", words(80) + " # a" * 11, words(80) + " # a" * 10),
    ("max_symbol_ratio", words(80) + " ... a" * 11, words(80) + " \u2026 a" * 10),
    (
        "max_bullet_line_fraction",
        lines(*" " * 10, start="- "),
        "\n".join([lines(""), lines(*" " * 9, start="\u2022 ")]),
    ),
    (
        "max_ellipsis_line_fraction",
        lines(*[""] * 6, *["..."] * 4),
        lines(*[""] * 7, *["\u2026"] * 3),
    ),
    ("min_alphabetic_fraction", words(79) + " 1984" * 21, words(80) + " 1984" * 20),
    ("min_alphabetic_fraction", words(79) + " 1984" * 21, words(80) + " 2nd 1984" * 10 + " 9" * 12),
    ("min_stop_words", "the words held " * 20, "the words have " * 20),
]


@pytest.mark.parametrize(("setting", "fails", "passes"), BOUNDARIES)
def test_the_published_threshold_is_the_boundary(setting, fails, passes):
    assert verdict(fails) == setting
    assert verdict(passes) is None


def test_a_setting_moves_its_boundary():
    assert verdict(words(49), min_words=49) is None
    assert verdict("ordinary words held here " * 20, min_stop_words=0) is None
    assert verdict("der Hund und die Katze " * 20, stop_words=("und", "die")) is None


def test_stop_words_count_as_they_are_written_and_once_each():
    assert verdict("The words the words " * 20) == "min_stop_words"
    assert verdict("theme sand " * 30) == "min_stop_words"


@pytest.mark.parametrize("text", ["", "!", "\n\n"])
def test_a_text_without_words_is_no_error(text):
    assert verdict(text) == "min_words"
    assert verdict(text, min_words=0) == "min_mean_word_length"
