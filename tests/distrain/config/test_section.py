import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrain.config.section import format_duration, parse_bytes, parse_count, parse_duration


@given(st.integers(min_value=0, max_value=10**8))
def test_a_duration_is_read_back_as_written(seconds):
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1h30m", 5400), ("1-00:00:10", 86410), ("24:00:00", 86400), ("2d", 172800)],
)
def test_durations_of_people_and_of_slurm(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["24", 24, "1hour", "h", "", "1:00", "-5m", "10m 5"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@given(st.decimals(min_value=0, max_value=9999, places=2), st.sampled_from("kMBT"))
def test_a_count_with_a_fraction_is_exact(number, unit):
    size = {"k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}[unit]
    assert parse_count(f"{number}{unit}") == number * size


@pytest.mark.parametrize(
    ("value", "count"), [("2.5B", 2_500_000_000), (1e6, 10**6), ("1_000", 1000)]
)
def test_forms_of_a_count(value, count):
    assert parse_count(value) == count


@pytest.mark.parametrize("text", ["10G", "many", "1.2345k", "-3k", "", "k"])
def test_what_is_no_count_is_refused(text):
    with pytest.raises(ValueError, match=r"not a (count|whole number)"):
        parse_count(text)


@pytest.mark.parametrize(
    ("value", "size"),
    [("20GiB", 20 << 30), ("1.5GB", 1_500_000_000), ("512 MiB", 512 << 20), ("7", 7), (7, 7)],
)
def test_forms_of_a_size(value, size):
    assert parse_bytes(value) == size


@pytest.mark.parametrize("text", ["20G", "much", "-1GB", "GiB", "1gib", ""])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="not a size"):
        parse_bytes(text)
