import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrain.checkpoint.layout import Name
from distrain.checkpoint.retention import expired

NAMES = st.builds(Name, st.integers(0, 8), st.integers(0, 2))


def test_the_newest_steps_stay():
    present = [Name(100), Name(200), Name(300)]
    assert expired(present, present, 2) == [Name(100)]


def test_nothing_goes_before_enough_good_ones_are_known():
    present = [Name(100), Name(200), Name(300)]
    assert expired(present, {Name(300)}, 2) == []


def test_a_second_save_of_a_step_replaces_the_first():
    present = [Name(100), Name(200), Name(200, 1)]
    assert expired(present, {Name(100), Name(200, 1)}, 2) == [Name(200)]


def test_none_to_keep_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        expired([], [], 0)


@given(st.sets(NAMES), st.sets(NAMES), st.integers(1, 4))
def test_the_last_good_ones_always_stay(present, good, keep_last):
    gone = set(expired(present, good, keep_last))
    assert gone <= present
    newest_good_steps = sorted({name.step for name in good & present})[-keep_last:]
    kept_good_steps = {name.step for name in (good & present) - gone}
    assert set(newest_good_steps) <= kept_good_steps
    # Whatever goes has something newer that is good.
    assert all(any(name < newer for newer in (good & present) - gone) for name in gone)
