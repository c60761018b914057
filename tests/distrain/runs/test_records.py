import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrain.runs.json_lines import read_records
from distrain.runs.records import (
    append_record,
    finite,
    json_text,
    read_json,
    write_json,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


def refuse(token: str) -> None:
    raise AssertionError(f"{token} is no JSON")


@given(VALUES)
def test_whatever_is_written_is_json_for_any_reader(value):
    found = json.loads(json_text(value), parse_constant=refuse)
    assert found == json.loads(json.dumps(finite(value), allow_nan=False))


def test_python_itself_would_write_what_is_no_json():
    with pytest.raises(AssertionError, match="NaN is no JSON"):
        json.loads(json.dumps(math.nan), parse_constant=refuse)


def test_finite_numbers_are_written_bitwise():
    values = [0.1 + 0.2, 5e-324, -0.0, 2**60, True]
    assert json.loads(json_text(values)) == values


def test_what_is_not_finite_is_null_in_every_record(tmp_path):
    record = {"loss": math.nan, "norms": [1.0, math.inf], "by": {"web": -math.inf}, "step": 3}
    expected = {"loss": None, "norms": [1.0, None], "by": {"web": None}, "step": 3}
    write_json(tmp_path / "result.json", record)
    append_record(tmp_path / "events.jsonl", record)
    assert read_json(tmp_path / "result.json") == expected
    assert list(read_records(tmp_path / "events.jsonl")) == [expected]
