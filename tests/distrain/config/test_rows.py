"""Shapes of rows: recognized by their fields, read, and what is none of them named."""

from typing import Any

import pytest

from distrain.config.row_contents import RowContent
from distrain.config.rows import SHAPES, RowsOfSource, shape_of, suggested_fields
from distrain.config.turns import RowError

PAIR = ({"role": "user", "content": "Name one."}, {"role": "assistant", "content": "Red."})
SYSTEM = {"role": "system", "content": "Be brief."}
SPOKEN = [{"from": "human", "value": "Name one."}, {"from": "gpt", "value": "Red."}]
CHAT = RowContent(PAIR)
WITH_SYSTEM = RowContent((SYSTEM, *PAIR))
TOOLS = [{"type": "function", "function": {"name": "add"}}]


def read(row, **fields):
    named: Any = fields
    return RowsOfSource(named).read(row)


@pytest.mark.parametrize(
    ("row", "title", "content"),
    [
        ({"prompt": "Name one.", "answer": "Red."}, "prompt and answer", CHAT),
        ({"prompt": "A", "answer": "B", "system": ""}, "prompt and answer", None),
        ({"prompt": [SYSTEM, PAIR[0]], "answer": "Red."}, "prompt and answer", WITH_SYSTEM),
        ({"prompt": [PAIR[0]], "completion": [PAIR[1]]}, "prompt and completion", CHAT),
        (
            {"prompt": "The sky is\n", "completion": " blue."},
            "prompt and completion",
            RowContent(prompt="The sky is\n", completion=" blue."),
        ),
        ({"messages": list(PAIR), "prompt": "Name one."}, "chat (messages)", CHAT),
        ({"messages": list(PAIR), "system": "Be brief."}, "chat (messages)", WITH_SYSTEM),
        ({"messages": list(PAIR), "tools": TOOLS}, "chat (messages)",
         RowContent(PAIR, tools=tuple(TOOLS))),
        ({"conversations": SPOKEN}, "ShareGPT (conversations)", CHAT),
        ({"conversations": list(PAIR)}, "ShareGPT (conversations)", CHAT),
        ({"conversations": SPOKEN, "system": "Be brief."}, "ShareGPT (conversations)",
         WITH_SYSTEM),
        (
            {"instruction": "Name one.", "input": "", "output": "Red.", "text": "both"},
            "Alpaca (instruction, output)",
            CHAT,
        ),
        (
            {"instruction": "Name", "input": "one.", "output": "Red.", "system": "Be brief."},
            "Alpaca (instruction, output)",
            RowContent((SYSTEM, {"role": "user", "content": "Name\none."}, PAIR[1])),
        ),
        (
            {"instruction": "Name one.", "output": "Red.", "history": [["Name one.", "Red."]]},
            "Alpaca (instruction, output)",
            RowContent((*PAIR, *PAIR)),
        ),
        ({"text": "It rains."}, "text", RowContent(completion="It rains.")),
    ],
)  # fmt: skip
def test_every_shape_is_recognized_and_read(row, title, content):
    assert getattr(shape_of(row), "title", None) == title
    found = read(row)
    assert content is None or found == content


def test_a_field_that_holds_nothing_decides_nothing():
    assert read({"prompt": "Name one.", "answer": "Red.", "chosen": None, "messages": None}) == CHAT


def test_fields_of_other_names_are_those_that_the_recipe_says():
    row = {"question": "Name one.", "solution": "Red.", "answer": "3"}
    assert read(row, prompt="question", answer="solution") == CHAT
    preference = {"prompt": "Name one.", "chosen": "Red.", "rejected": "Three."}
    assert read(preference, answer="chosen") == CHAT
    whole = {"chosen": list(PAIR), "rejected": list(PAIR)}
    assert read(whole, messages="chosen") == CHAT
    mixed = {"messages": [PAIR[0]], "chosen": "Red.", "rejected": "Three."}
    assert read(mixed, prompt="messages", answer="chosen") == CHAT


def test_what_nothing_reads_is_counted():
    rows = RowsOfSource({})
    rows.read({"prompt": "a", "answer": "b", "id": 3})
    rows.read({"prompt": "a", "answer": "b", "id": 4, "from": "web", "system": "c"})
    assert rows.ignored == {"id": 2, "from": 1}


@pytest.mark.parametrize("preference", [
    {"prompt": "a", "chosen": "b", "rejected": "c"},
    {"messages": list(PAIR), "chosen": "b", "rejected": "c"},
    {"chosen": list(PAIR), "rejected": list(PAIR)},
])  # fmt: skip
def test_a_preference_is_refused_with_the_setting_that_reads_its_answer(preference):
    with pytest.raises(RowError, match=r"a preference.*set data.fields to \{answer: chosen\}"):
        read(preference)


def test_rows_of_a_source_have_the_shape_of_the_first():
    for first in SHAPES:
        rows = RowsOfSource({}, shape=first)
        for other in SHAPES:
            row = dict.fromkeys(other.needs, "x")
            if other is not first:
                with pytest.raises(RowError, match=f"in a file of {first.title.split()[0]}"):
                    rows.read(row)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ([1], "list where an object is expected"),
        ({}, "it has no field"),
        ({"prompt": "a", "answer": 3}, "'answer' is empty or no text"),
        ({"prompt": "a", "answer": " "}, "'answer' is empty or no text"),
        ({"prompt": "a", "completion": ""}, "'completion' is empty or no text"),
        ({"prompt": "a", "completion": "b", "label": False}, "a completion with a label"),
        ({"text": "\n"}, "'text' is empty or no text"),
        ({"instruction": "a", "output": ""}, "'output' is empty or no text"),
        ({"instruction": "a", "output": "b", "history": ["c"]}, "'history' is no list of pairs"),
        ({"messages": list(PAIR), "images": ["a.png"]}, "'images' beside the text"),
        ({"messages": list(PAIR), "tools": "[3]"}, "'tools' is no list of objects"),
        ({"messages": list(PAIR), "system": 3}, "'system' is no text"),
        ({"messages": [PAIR[1]]}, "turn 1: the assistant answers before anything is asked"),
    ],
)
def test_what_makes_no_example_is_said(row, problem):
    with pytest.raises(RowError, match=problem):
        read(row)


@pytest.mark.parametrize(
    ("names", "setting"),
    [
        (["id", "question", "solution"], "{prompt: question, answer: solution}"),
        (["prompt", "response"], "{answer: response}"),
        (["input", "output"], "{prompt: input, answer: output}"),
        (["dialogue", "summary"], "{messages: dialogue}"),
        (["a", "b"], "{prompt: ..., answer: ...}"),
    ],
)
def test_the_setting_that_would_read_other_fields_is_said(names, setting):
    assert setting in suggested_fields(names)
    with pytest.raises(RowError) as caught:
        read(dict.fromkeys(names, "x"))
    assert setting in str(caught.value)
