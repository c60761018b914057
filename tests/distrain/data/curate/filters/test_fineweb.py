"""Each rule of Penedo et al. 2024, section 3.6, on either side of its published threshold."""

import pytest

from distrain.config.curation import FinewebConfig
from distrain.data.curate.filters.fineweb import TERMINALS, fineweb
from distrain.data.curate.words import TextView


def verdict(text, **settings):
    return fineweb(TextView(text), FinewebConfig(**settings))


def lines(count, length=40, end=".", start=0):
    """Different lines of a length."""
    return [f"{start + number:03d}".ljust(length - 1, "x") + end for number in range(count)]


BOUNDARIES = [
    # 3 of 25 lines is 0.12, which is too few.
    (
        "min_terminal_line_fraction",
        lines(3) + lines(22, end=",", start=3),
        lines(4) + lines(21, end=",", start=4),
    ),
    # 67 of 100 short lines are too many; a line of 30 characters is not short.
    (
        "max_short_line_fraction",
        lines(67, 29) + lines(33, start=67),
        lines(66, 29) + lines(34, 30, start=66),
    ),
    # One line of 40 again: of 400 characters too many, of 401 not.
    (
        "max_duplicate_line_character_fraction",
        lines(9) + lines(1),
        lines(8) + lines(1, 41, start=8) + lines(1),
    ),
]


@pytest.mark.parametrize(("setting", "fails", "passes"), BOUNDARIES)
def test_the_published_threshold_is_the_boundary(setting, fails, passes):
    assert verdict("\n".join(fails)) == setting
    assert verdict("\n".join(passes)) is None


def test_blank_lines_do_not_count():
    _, fails, passes = BOUNDARIES[0]
    assert verdict("\n\n".join(fails)) == "min_terminal_line_fraction"
    assert verdict("\n \n".join(passes)) is None
    assert verdict("\n\n") == "min_terminal_line_fraction"


def test_the_newline_ratio_is_no_published_rule_and_off():
    text = "\n".join(f"{'word' * 9}{number}." for number in range(10))  # 9 line feeds, 20 words
    assert verdict(text) is None
    assert verdict(text, max_newline_ratio=0.45) is None
    assert verdict(text, max_newline_ratio=0.449) == "max_newline_ratio"


def test_sentences_end_as_unicode_says():
    assert {".", "!", "?", "\u3002", "\u06d4", "\u0964"} < TERMINALS
    assert not {",", ":", '"', ")", "\u2026", "-"} & TERMINALS
    assert len(TERMINALS) == 172
