import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from distrain.data.curate.normalize import normalize


def test_equal_texts_become_equal_bytes():
    assert normalize("\ufeff\n a \t\r\nb\rc\u00a0\n\n\n d\x0c\x00\n\n") == " a\nb\nc\n\n\n d"
    assert normalize("e\u0301") == normalize("é") == "é"
    assert normalize("def f():\n\treturn 1  \n") == "def f():\n\treturn 1"
    assert normalize(" \n\t\n") == ""


@settings(deadline=None)
@given(st.text())
def test_normalizing_twice_changes_nothing_more(text):
    once = normalize(text)
    assert normalize(once) == once
    assert unicodedata.is_normalized("NFC", once)


def test_a_long_run_of_spaces_does_not_stall_it():
    # Quadratic time on this would be hours.
    assert len(normalize("a" + " " * 2_000_000 + "b")) == 2_000_002
