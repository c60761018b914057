import pytest

from distrain.runs.figures import short_count, short_duration


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1234, "1.23k"),
        (9960, "10.0k"),
        (99_600, "100k"),
        (412_000, "412k"),
        (999_700, "1.00M"),
        (12_300_000, "12.3M"),
        (4.56e9, "4.56G"),
    ],
)
def test_counts_have_three_digits(count, text):
    assert short_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0s"),
        (12.4, "12s"),
        (59.6, "1m00s"),
        (245, "4m05s"),
        (11_520, "3h12m"),
        (90_000, "1d01h"),
    ],
)
def test_durations_have_two_units(seconds, text):
    assert short_duration(seconds) == text
