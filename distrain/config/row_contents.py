"""What a row says, by its shape: a reader for each. Pure, without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from distrain.config.turns import (
    FIRST_ROLES,
    Message,
    RowError,
    from_json,
    read_turns,
    without_filler,
)

ANSWERING = ("assistant", "tool")
"""Roles of the turns that make up an answer, calls of tools included."""

Row = Mapping[str, Any]
"""A row with its fields named as here, and without those that hold nothing."""


@dataclass(frozen=True, slots=True)
class RowContent:
    """What a row says; see ``distrain.data.chats.example.Example``."""

    messages: tuple[Message, ...] = ()
    prompt: str = ""
    completion: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    rejected: tuple[Message, ...] = ()


class Asking(Protocol):
    """What a question is found in: ``RowContent``, and an example made of it."""

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """Turns."""

    @property
    def prompt(self) -> str:
        """Of a text."""

    @property
    def completion(self) -> str | None:
        """Of a text."""


def question_of(content: Asking) -> str:
    """Return what decides on the split: equal questions stay together.

    All that comes before the first turn of the assistant, but the system's words; a running text
    stands for itself.
    """
    if content.completion is not None:
        return content.prompt or content.completion
    asked = []
    for message in content.messages:
        if message["role"] == "assistant":
            break
        if message["role"] not in FIRST_ROLES:
            asked.append(str(message.get("content") or ""))
    return "\n".join(asked)


def read_chat(row: Row, has_filler: bool) -> RowContent:
    """Read a list of turns."""
    field = "messages" if "messages" in row else "conversations"
    messages = read_turns(row[field], field, has_filler=has_filler)
    return RowContent(_after_system(messages, row), tools=_tools(row, has_filler))


def read_alpaca(row: Row, _: bool) -> RowContent:
    """Read an instruction, its input and its output."""
    asked = [
        _text(row, name) for name in ("instruction", "input") if row.get(name) not in (None, "")
    ]
    messages = [message for pair in _history(row) for message in pair]
    messages.append({"role": "user", "content": "\n".join(asked)})
    messages.append({"role": "assistant", "content": _text(row, "output")})
    return RowContent(_after_system(messages, row))


def read_pair(row: Row, has_filler: bool) -> RowContent:
    """Read a prompt and its answer."""
    return _laid_in_turns(row, "answer", has_filler)


def read_completion(row: Row, has_filler: bool) -> RowContent:
    """Read a prompt and what completes it: texts without a template, or turns."""
    if isinstance(row.get("label"), bool):
        raise RowError(
            "a completion with a label, good or bad, which is for preferences; sft trains every "
            "completion: leave out the bad ones, and the field"
        )
    if _is_turns(row["prompt"]) or _is_turns(row["completion"]):
        return _laid_in_turns(row, "completion", has_filler)
    if row["prompt"] == "":
        return RowContent(completion=_text(row, "completion"))
    return RowContent(prompt=_text(row, "prompt"), completion=_text(row, "completion"))


def read_preference(row: Row, has_filler: bool) -> RowContent:
    """Read a question with a chosen and a rejected answer; an answer may be a whole chat."""
    asked = _asked_turns(row, has_filler)
    answers = []
    for name in ("chosen", "rejected"):
        said = [{"role": "assistant", "content": ""}]
        if _is_turns(row[name]):
            said = read_turns(row[name], name, has_filler=has_filler)
        else:
            said[0]["content"] = _text(row, name)
        # Turns that begin with the question are the whole chat, whatever stands beside them.
        is_whole = said[0]["role"] not in ANSWERING
        if not (asked or is_whole):
            raise RowError(f"no 'prompt' or 'messages' before '{name}', which asks nothing itself")
        answers.append(_after_system(said if is_whole else [*asked, *said], row))
    return RowContent(answers[0], tools=_tools(row, has_filler), rejected=answers[1])


def _asked_turns(row: Row, has_filler: bool) -> list[Message]:
    """Return what stands before both answers."""
    name = "prompt" if "prompt" in row else "messages"
    if name not in row:
        return []
    if _is_turns(row[name]):
        return read_turns(row[name], name, has_filler=has_filler)
    return [{"role": "user", "content": _text(row, name)}]


def check_same_question(chosen: Sequence[Message], rejected: Sequence[Message]) -> None:
    """Refuse two answers that are equal, or that answer different chats."""
    if list(chosen) == list(rejected):
        raise RowError("'chosen' is equal to 'rejected'")
    lasts = [
        max((n for n, turn in enumerate(turns) if turn["role"] not in ANSWERING), default=-1)
        for turns in (chosen, rejected)
    ]
    heads = [turns[: last + 1] for turns, last in zip((chosen, rejected), lasts, strict=True)]
    if list(heads[0]) != list(heads[1]):
        pairs = zip(*heads, strict=False)
        equal = next(
            (n for n, (one, other) in enumerate(pairs) if one != other), min(map(len, heads))
        )
        raise RowError(f"'chosen' and 'rejected' answer different chats: turn {equal + 1} differs")
    for name, turns, last in zip(("chosen", "rejected"), (chosen, rejected), lasts, strict=True):
        if all(turn["role"] != "assistant" for turn in turns[last + 1 :]):
            raise RowError(f"'{name}' ends with a question: there is nothing to train on")


def read_text(row: Row, _: bool) -> RowContent:
    """Read a running text."""
    return RowContent(completion=_text(row, "text"))


def _laid_in_turns(row: Row, answer: str, has_filler: bool) -> RowContent:
    """Put prompt and answer in turns; each may be a text or a list of turns already."""
    messages: list[Message] = []
    for name, role in (("prompt", "user"), (answer, "assistant")):
        if _is_turns(row[name]):
            messages += read_turns(row[name], name, has_filler=has_filler)
        else:
            messages.append({"role": role, "content": _text(row, name)})
    return RowContent(_after_system(messages, row), tools=_tools(row, has_filler))


def _is_turns(value: object) -> bool:
    # A CSV holds lists as JSON; a prompt that merely begins with a bracket is a text.
    if isinstance(value, str):
        return value.lstrip().startswith(('[{"role"', '[{"from"', "[{'role'", "[{'from'"))
    return isinstance(value, list)


def _text(row: Row, field: str) -> str:
    value = row[field]
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"'{field}' is empty or no text")
    return value


def _after_system(messages: list[Message], row: Row) -> tuple[Message, ...]:
    """Put the words of a ``system`` field before the turns, unless they have their own."""
    system = row.get("system", "")
    if not isinstance(system, str):
        raise RowError("'system' is no text")
    if not system.strip() or (messages and messages[0]["role"] in FIRST_ROLES):
        return tuple(messages)
    return ({"role": "system", "content": system}, *messages)


def _tools(row: Row, has_filler: bool) -> tuple[Mapping[str, Any], ...]:
    tools = from_json(row.get("tools") or [], "tools")
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise RowError("'tools' is no list of objects")
    return tuple(without_filler(tools) if has_filler else tools)


def _history(row: Row) -> list[list[Message]]:
    turns = from_json(row.get("history") or [], "history")
    if not isinstance(turns, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        for pair in turns
    ):
        raise RowError("'history' is no list of pairs of a question and its answer")
    return [
        [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        for asked, answered in turns
    ]
