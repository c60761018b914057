import pytest

from launcher.report.text import date_text, nats, share, significant, tick_text, visible


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\N{EN DASH}"),
        (0, "0"),
        (0.0003, "3.00e-4"),
        (0.402, "0.402"),
        (108.6, "109"),
        (5828.4, "5,828"),
        (12.34, "12.3"),
    ],
)
def test_significant_digits(value, text):
    assert significant(value) == text


@pytest.mark.parametrize(
    ("value", "step", "text"),
    [
        (0, 100, "0"),
        (0.001, 0.001, "0.001"),
        (0.0005, 0.0005, "5e-4"),
        (2.5, 0.5, "2.5"),
        (0.25, 0.25, "0.25"),
        (7.0, 1.0, "7"),
        (2000, 2000, "2,000"),
        (25_000, 5000, "25k"),
        (1_500_000, 500_000, "1.5M"),
    ],
)
def test_tick_texts_have_no_needless_digits(value, step, text):
    assert tick_text(value, step) == text


def test_losses_have_three_decimals():
    assert nats(5.0) == "5.000"


def test_dates_are_utc():
    assert date_text(0) == "1970-01-01 00:00:00"


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 7, "0%"),
        (7, 7, "100%"),
        (1, 3, "33.3%"),
        (1, 10_000, "<0.1%"),
        (9_999, 10_000, ">99.9%"),
        (0, 0, "\N{EN DASH}"),
    ],
)
def test_only_nothing_is_0_percent_and_only_everything_100(part, whole, text):
    assert share(part, whole) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain <b>\n\tcafé 漢字 👩\u200d🚀", "plain <b>\n\tcafé 漢字 👩\u200d🚀"),
        ("\x00\x1b[31m\x7f\x85\r", r"\x00\x1b[31m\x7f\x85\r"),
        ("\u202eevil\u2066 \u2028\ufeff", r"\u202eevil\u2066 \u2028\ufeff"),
        ("\ud83d alone", r"\ud83d alone"),
    ],
)
def test_characters_that_act_on_a_text_are_written_out(text, shown):
    assert visible(text, 100) == shown
    assert shown.encode()


def test_long_texts_end_in_an_ellipsis():
    assert visible("abcdef", 6) == "abcdef"
    assert visible("abcdefg", 6) == "abcdef…"
