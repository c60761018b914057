"""Turns of chats: what templates take is made of both ways of writing them, the rest refused."""

import json
from typing import Any

import pytest

from distrain.config.turns import RowError, check_turns, read_turns

USER: dict[str, Any] = {"role": "user", "content": "Hi."}
ANSWER = {"role": "assistant", "content": "Hello."}
SYSTEM = {"role": "system", "content": "Be kind."}
TOOL = {"role": "tool", "content": "12"}
CALL = {"name": "add", "arguments": {"a": 5, "b": 7}}


def test_what_a_turn_has_goes_to_the_template_as_it_is():
    turn = {"role": "assistant", "content": " 4 \n", "reasoning_content": "2 + 2", "name": "calc"}
    assert read_turns([USER, turn], "messages") == [USER, turn]


def test_empty_fields_of_a_table_are_no_values():
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "z": None}}}
    turn = {"role": "assistant", "content": None, "tool_calls": [call], "name": None}
    table = read_turns([turn], "messages", has_filler=True)[0]
    assert table["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    json_row = read_turns([turn], "messages")[0]
    assert json_row["tool_calls"][0]["function"]["arguments"] == {"a": 1, "z": None}
    assert table.keys() == json_row.keys() == {"role", "content", "tool_calls"}


def test_parts_of_text_are_joined_and_other_parts_refused_by_name():
    parts = [{"type": "text", "text": "Hi"}, {"type": "text", "text": "."}]
    assert read_turns([{"role": "user", "content": parts}], "messages") == [USER]
    for kind in ("image_url", "image", "input_audio", "video"):
        with pytest.raises(RowError, match=f"turn 1 has an? {kind} in its content"):
            read_turns([{"role": "user", "content": [*parts, {"type": kind}]}], "messages")
    with pytest.raises(RowError, match="a part of type 'refusal'"):
        read_turns([{"role": "user", "content": [{"type": "refusal", "text": "x"}]}], "messages")


@pytest.mark.parametrize("arguments", [{"a": 5, "b": 7}, '{"a": 5, "b": 7}'])
def test_arguments_in_a_text_become_the_object_that_templates_lay_out(arguments):
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": arguments}}
    turn = {"role": "assistant", "content": None, "tool_calls": [call]}
    found = read_turns([USER, turn, TOOL], "messages")[1]
    assert found["tool_calls"] == [{"id": "1", "type": "function", "function": CALL}]
    assert found["content"] == ""


def test_both_ways_of_writing_a_chat_say_the_same():
    spoken = [
        {"from": "system", "value": "Be kind."},
        {"from": "human", "value": "Hi."},
        {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "observation", "value": "12"},
        {"from": "gpt", "value": "Hello."},
    ]
    called = {"role": "assistant", "content": "", "tool_calls": [
        {"type": "function", "function": CALL}]}  # fmt: skip
    expected: list[dict[str, Any]] = [SYSTEM, USER, called, TOOL, ANSWER]
    assert read_turns(spoken, "conversations") == expected
    assert read_turns(json.dumps(spoken), "conversations") == expected  # of a CSV
    check_turns(expected)


@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        ([USER, ANSWER, SYSTEM], "turn 3: a system turn after the assistant turn"),
        ([SYSTEM, SYSTEM, USER, ANSWER], "turn 2: a system turn after the system turn"),
        ([SYSTEM, ANSWER], "turn 2: the assistant answers before anything is asked"),
        ([ANSWER], "turn 1: the assistant answers before anything is asked"),
        ([USER, TOOL, ANSWER], "turn 2: a tool answers after the user turn"),
        ([USER, {**ANSWER, "content": " \n"}], "turn 2: the answer is empty"),
        ([{**USER, "content": ""}, ANSWER], "turn 1: the user turn is empty"),
        ([USER, USER], "no turn of the assistant"),
    ],
)
def test_what_no_template_lays_out_is_refused_by_its_turn(turns, problem):
    with pytest.raises(RowError, match=problem):
        check_turns(turns)


def test_what_only_some_templates_refuse_is_left_to_them():
    check_turns([USER, USER, ANSWER])
    check_turns([USER, ANSWER, ANSWER, USER])
    check_turns([{"role": "developer", "content": "Be kind."}, USER, ANSWER, TOOL, TOOL, ANSWER])


@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        ("Hi.", "'messages' is no list of turns"),
        ([], "'messages' is no list of turns"),
        ("[{", "'messages' is a text that is no JSON"),
        (["Hi."], "turn 1 is str where an object is expected"),
        ([{"content": "Hi."}], r"turn 1 has no role \(it has content\)"),
        ([{"role": "human", "content": "Hi."}], "turn 1 has the role 'human'; expected one of"),
        ([{"from": "narrator", "value": "x"}], "turn 1 is from 'narrator'; expected one of human"),
        ([{"role": "user", "content": 3}], "turn 1 has int as its content"),
        ([USER, {**ANSWER, "weight": 0}], "turn 2 has weight: 0, which is not read"),
        ([{"from": "gpt", "value": "x", "weight": 0}], "turn 1 has weight: 0"),
        ([{**ANSWER, "tool_calls": [{"function": {}}]}], "a call of a tool without a name"),
        ([{**ANSWER, "tool_calls": 3}], "turn 1 has tool_calls that are no list"),
        ([{"from": "function_call", "value": "add"}], "a call of a tool that is no object"),
    ],
)
def test_what_is_no_turn_is_named(turns, problem):
    with pytest.raises(RowError, match=problem):
        read_turns(turns, "messages")
