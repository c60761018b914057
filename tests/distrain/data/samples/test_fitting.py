import numpy as np
import pytest

from distrain.data.chats.example import EncodedExample
from distrain.data.samples.fitting import fit
from tests.distrain.data.samples.made_examples import example


def chat():
    """System, user, assistant, user, assistant: marks below 10, contents of turn n from 10 * n."""
    turns = [  # ids, trained, contents that may go
        ([1, 11, 12], False, []),
        ([2, 21, 22, 23], False, [1, 2, 3]),
        ([3, 31, 32, 33, 9], True, [1, 2, 3]),
        ([2, 41, 42], False, [1, 2]),
        ([3, 51, 52, 9], True, [1, 2]),
    ]
    ids, trained, may_go = [], [], []
    for turn, is_trained, contents in turns:
        ids += turn
        trained += [is_trained and place > 0 for place in range(len(turn))]
        may_go += [place in contents for place in range(len(turn))]
    return EncodedExample("chat", np.array(ids, np.int32), np.array(trained), np.array(may_go))


def targets(found):
    return found.kept.ids[found.kept.is_trained].tolist()


@pytest.mark.parametrize("rule", ["refuse", "drop", "cut", "cut_left"])
def test_what_fits_stays_as_it_is_but_for_what_no_target_sees(rule):
    whole = fit(chat(), 19, rule)
    assert whole.effect is None
    assert whole.kept.ids.tolist() == chat().ids.tolist()
    tail = example([1, 2, 3, 4, 5], trained_from=1)
    tail.is_trained[3:] = False
    assert fit(tail, 5, rule).kept.ids.tolist() == [1, 2, 3]
    nothing = example([1, 2, 3], trained_from=3)
    assert fit(nothing, 5, rule).effect == "nothing_trained"


def test_contents_before_the_first_answer_go_first_and_no_mark_of_them():
    for rule in ("refuse", "cut"):
        found = fit(chat(), 17, rule)
        assert found.effect == "cut_context"
        assert found.kept.ids.tolist()[:5] == [1, 11, 12, 2, 23]
        assert targets(found) == [31, 32, 33, 9, 51, 52, 9]
        assert fit(chat(), 16, rule).kept.ids.tolist()[3:5] == [2, 3]
    assert fit(chat(), 18, "drop").example is None


@pytest.mark.parametrize("room", range(6, 16))
def test_what_does_not_fit_even_so_is_refused_or_loses_its_end(room):
    assert fit(chat(), room, "refuse").example is None
    found = fit(chat(), room, "cut")
    assert found.effect == "cut_end"
    whole = [1, 11, 12, 2, 3, 31, 32, 33, 9, 2, 41, 42, 3, 51, 52, 9]
    assert found.kept.ids.tolist() == whole[:room]
    assert found.needed == 16


def test_a_row_that_its_marks_fill_is_no_example():
    # The first target of the shortest form is its sixth token; one that begins a row is no target.
    for room in range(1, 6):
        found = fit(chat(), room, "cut")
        assert (found.example, found.effect, found.needed) == (None, "too_long", 16)
    assert targets(fit(chat(), 6, "cut")) == [31]


def test_from_the_left_the_last_turn_stays_whole_and_marks_stay():
    for room in range(11, 19):
        found = fit(chat(), room, "cut_left")
        kept = found.kept.ids.tolist()
        assert found.effect == "cut_left"
        assert len(kept) == room
        assert targets(found)[-3:] == [51, 52, 9]
        assert [token for token in kept if token < 10] == [1, 2, 3, 9, 2, 3, 9]
        assert kept[1:3] == [11, 12]
    # An answer without its beginning does not teach how to begin one: 32 is gone, 33 no target.
    assert targets(fit(chat(), 14, "cut_left")) == [9, 51, 52, 9]
    assert targets(fit(chat(), 15, "cut_left")) == [33, 9, 51, 52, 9]
    assert fit(chat(), 10, "cut_left").example is None
