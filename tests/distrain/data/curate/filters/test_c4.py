"""Each rule of Raffel et al. 2020, section 2.2, and of the code published with it."""

import pytest

from distrain.config.curation import C4Config
from distrain.data.curate.filters.c4 import c4
from distrain.data.curate.words import TextView

GOOD = "This line is a whole sentence."
PAGE = f'{GOOD} Here is another one.\nAnd "a third one is this."'


def cleaned(text, **settings):
    """The text that is left, or the setting that it fails."""
    verdict = c4(TextView(text), C4Config(**settings))
    if verdict is None:
        return text
    return verdict.text if isinstance(verdict, TextView) else verdict


def test_a_good_page_is_kept_as_it_is():
    assert c4(TextView(PAGE), C4Config()) is None


@pytest.mark.parametrize(
    "line",
    [
        "A line without an end mark",
        "A line that ends in an ellipsis...",
        "A line that ends in 'this'",
        "A line that ends in a colon:",
        "Only four words here.",
        "Too long a word is in here " + "x" * 1001 + ".",
        "Please enable JavaScript in your browser.",
        "Javascript { is dropped before its bracket is seen }.",
        "Read our Terms of Use before all else.",
        "This is our privacy policy for you.",
        "This is the cookie policy of it.",
        "This site uses cookies to know you.",
        "We make use of cookies on it.",
        "We use cookies on all of it.",
        "A bracket { in a line that is dropped anyway",
        "Lorem ipsum in a line that is dropped anyway",
        "The end mark is before a citation. [1]",
    ],
)
def test_a_line_that_a_rule_drops_is_left_out(line):
    assert cleaned(f"{PAGE}\n{line}") == PAGE
    assert cleaned(f"{line}\n{PAGE}") == PAGE


@pytest.mark.parametrize(
    "line",
    [
        "A line that ends in a question?",
        "A line that ends in joy!",
        'A line that ends in "quotation marks"',
        "Five words are just enough.",
        "A word just short enough: " + "x" * 999 + ".",
        "Our policy on cookies and terms is here.",
    ],
)
def test_a_line_on_the_other_side_of_each_rule_stays(line):
    assert cleaned(f"{PAGE}\n{line}") == f"{PAGE}\n{line}"


def test_citations_are_removed_and_count_as_no_words():
    assert cleaned(f"{PAGE}\nThis is known[12] to be[citation needed] so.") == (
        f"{PAGE}\nThis is known to be so."
    )
    assert cleaned(f"{PAGE}\nOne two three [1] four.") == PAGE
    kept = f"{PAGE}\nThis is known[12] to be so."
    assert cleaned(kept, remove_citations=False) == kept


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Lorem Ipsum dolor sit amet consetetur.", "reject_lorem_ipsum"),
        ("Here is some code: { x; } and more.", "reject_curly_bracket"),
    ],
)
def test_a_page_is_rejected_for_what_a_line_of_it_says(line, reason):
    assert cleaned(f"{PAGE}\n{line}") == reason
    assert cleaned(f"{PAGE}\n{line}", **{reason: False}) == f"{PAGE}\n{line}"


@pytest.mark.parametrize(
    "text",
    [
        f"{GOOD} This is J. Smith, e.g. him.",
        f"{GOOD} The value is 3.14 here.",
        f"{GOOD}\n{GOOD}",
        "No line of this page ends as it should",
    ],
)
def test_a_page_of_fewer_than_three_sentences_is_rejected(text):
    assert cleaned(text) == "min_sentences"


@pytest.mark.parametrize(
    "text",
    [
        f"{GOOD} This one is asked? And this one is shouted!",
        f'{GOOD} "So it was." It was so then.',
        "\n".join([GOOD] * 3),
    ],
)
def test_a_page_of_three_sentences_is_kept(text):
    assert cleaned(text) == text


def test_every_rule_can_be_switched_off():
    off = C4Config(
        require_terminal_punctuation=False,
        min_words_per_line=0,
        min_sentences=0,
        remove_citations=False,
        remove_javascript=False,
        remove_policy=False,
        reject_lorem_ipsum=False,
        reject_curly_bracket=False,
    )
    assert c4(TextView("javascript {\n\nlorem ipsum [1]\nprivacy policy"), off) is None
