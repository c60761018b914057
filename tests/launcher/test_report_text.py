import pytest

from launcher.report_text import date_text, nats, significant, tick_text


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
