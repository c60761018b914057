import pytest

from distrain.config.row_contents import RowContent
from distrain.config.rows import RowsOfSource
from distrain.config.turns import RowError

ASKED = {"role": "user", "content": "Name a colour."}
RED = {"role": "assistant", "content": "Red."}
THREE = {"role": "assistant", "content": "Three."}
PAIR = RowContent((ASKED, RED), rejected=(ASKED, THREE))


def read(row, fields=None):
    return RowsOfSource(fields or {}, wants_preferences=True).read(row)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Name a colour.", "chosen": "Red.", "rejected": "Three."},
        {"prompt": [ASKED], "chosen": [RED], "rejected": [THREE]},
        {"messages": [ASKED], "chosen": [RED], "rejected": "Three."},
        {"chosen": [ASKED, RED], "rejected": [ASKED, THREE]},
        # As published sets have it: the question beside two whole chats.
        {"prompt": "Name a colour.", "chosen": [ASKED, RED], "rejected": [ASKED, THREE]},
        {"prompt": "Name a colour.", "chosen": [ASKED, RED], "rejected": [ASKED, THREE], "id": 7},
    ],
)
def test_a_question_and_two_answers_are_read_however_they_are_written(row):
    assert read(row) == PAIR


def test_other_names_system_and_tools_are_read_as_of_all_chats():
    row = {"q": "Name a colour.", "good": "Red.", "bad": "Three.", "system": "Be brief."}
    found = read(row, {"prompt": "q", "chosen": "good", "rejected": "bad"})
    system = {"role": "system", "content": "Be brief."}
    assert (found.messages, found.rejected) == ((system, ASKED, RED), (system, ASKED, THREE))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "a", "chosen": "Red.", "rejected": "Red."}, "'chosen' is equal to 'rejected'"),
        ({"chosen": "Red.", "rejected": "Three."}, "no 'prompt' or 'messages' before 'chosen'"),
        ({"prompt": "a", "chosen": "Red.", "rejected": " "}, "'rejected' is empty or no text"),
        (
            {"chosen": [ASKED, RED], "rejected": [ASKED | {"content": "Why?"}, THREE]},
            "answer different chats: turn 1 differs",
        ),
        (
            {"chosen": [ASKED, RED, ASKED, THREE], "rejected": [ASKED, THREE, ASKED, THREE]},
            "answer different chats: turn 2 differs",
        ),
        ({"chosen": [ASKED, RED, ASKED], "rejected": [ASKED, RED, ASKED, THREE]}, "a question"),
        ({"prompt": "a", "answer": "b"}, "preference reads two answers, chosen and rejected"),
    ],
)
def test_what_makes_no_pair_is_refused(row, problem):
    with pytest.raises(RowError, match=problem):
        read(row)


def test_sft_refuses_a_pair_as_before():
    with pytest.raises(RowError, match="sft reads one answer"):
        RowsOfSource({}).read({"prompt": "a", "chosen": "b", "rejected": "c"})
