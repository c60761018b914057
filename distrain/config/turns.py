"""Turns of a chat as rows give them -> messages as chat templates take them. Pure, without torch.

Two ways of writing a turn are read: ``role`` and ``content`` (OpenAI's), ``from`` and ``value``
(ShareGPT's). What no template lays out is refused; what only some refuse is left to the template.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Message = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool")
"""Roles of a message; ``developer`` is OpenAI's later word for ``system``."""
FIRST_ROLES = ("system", "developer")
SPEAKERS = {
    # ShareGPT's words for who speaks, and those that its readers met in the wild.
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
    "function_call": "assistant",
}
CALL = "function_call"
"""The speaker whose words are a call of a tool, as JSON."""
MEDIA = ("image", "video", "audio", "file")
"""Words in the type of a part of a content that is no text."""
WEIGHTS = ("weight", "train", "loss")
"""Keys of a turn by which other tools leave it out of the loss."""


class RowError(ValueError):
    """A row makes no example; the message says why, for people."""


def read_turns(value: object, field: str, *, has_filler: bool = False) -> list[Message]:
    """Return the messages of a field that holds turns.

    Args:
        value: A list of turns, or JSON of one, which is how a CSV holds it.
        field: Its name, for messages.
        has_filler: Of a table, where every struct has the fields of all: ``None`` is no value.

    Raises:
        RowError: It is no list of turns, or a turn is of no known form.
    """
    value = from_json(value, field)
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise RowError(f"'{field}' is no list of turns")
    return [_message(turn, f"turn {n}", has_filler) for n, turn in enumerate(value, start=1)]


def check_turns(messages: Sequence[Message]) -> None:
    """Refuse roles out of order, empty turns, and chats in which nothing is answered.

    Raises:
        RowError: The first turn that is wrong, by its number.
    """
    before = ""
    for number, message in enumerate(messages, start=1):
        problem = _out_of_order(message["role"], before) or _empty(message)
        if problem is not None:
            raise RowError(f"turn {number}: {problem}")
        before = message["role"]
    if all(message["role"] != "assistant" for message in messages):
        raise RowError("no turn of the assistant: there is nothing to train on")


def from_json(value: object, field: str) -> object:
    """Return what a text says that begins as JSON does; anything else as it is.

    Raises:
        RowError: It begins so and is none.
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RowError(f"'{field}' is a text that is no JSON ({error})") from error


def without_filler(value: Any) -> Any:  # noqa: ANN401  (whatever JSON holds)
    """Return a value of a table without the ``None`` that stand for absent fields."""
    if isinstance(value, Mapping):
        return {key: without_filler(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_filler(item) for item in value]
    return value


def _message(turn: object, where: str, has_filler: bool) -> Message:
    if not isinstance(turn, Mapping):
        raise RowError(f"{where} is {type(turn).__name__} where an object is expected")
    found = {key: value for key, value in turn.items() if value is not None}
    if has_filler:
        found = without_filler(found)
    if "role" not in found and "from" in found:
        return _of_sharegpt(found, where)
    for key in WEIGHTS:
        if key in found and not found[key]:
            raise RowError(
                f"{where} has {key}: {found[key]}, which is not read; data.train_on says which "
                "turns are trained"
            )
    role = found.get("role")
    if role not in ROLES:
        raise RowError(
            f"{where} has the role {role!r}; expected one of {', '.join(ROLES)}"
            if "role" in found
            else f"{where} has no role (it has {', '.join(found) or 'nothing'})"
        )
    found["content"] = _text(turn.get("content"), where)
    if "tool_calls" in found:
        found["tool_calls"] = _calls(found["tool_calls"], where)
        if not found["tool_calls"]:
            del found["tool_calls"]
    return found


def _of_sharegpt(turn: dict[str, Any], where: str) -> Message:
    speaker = turn["from"]
    role = SPEAKERS.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise RowError(f"{where} is from {speaker!r}; expected one of {', '.join(SPEAKERS)}")
    if turn.get("weight") == 0:
        raise RowError(
            f"{where} has weight: 0, which is not read; data.train_on says which turns are trained"
        )
    if speaker != CALL:
        return {"role": role, "content": _text(turn.get("value"), where)}
    called = from_json(turn.get("value"), f"value of {where}")
    calls = called if isinstance(called, list) else [called]
    return {"role": role, "content": "", "tool_calls": _calls(calls, where)}


def _text(content: object, where: str) -> str:
    """Return a content as one text; parts of type text are joined."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, Sequence):
        raise RowError(f"{where} has {type(content).__name__} as its content; expected text")
    return "".join(_part(part, where) for part in content)


def _part(part: object, where: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise RowError(f"{where} has {type(part).__name__} as a part of its content")
    kind = str(part.get("type", "text"))
    if any(word in kind for word in MEDIA):
        article = "an" if kind[0] in "aeiou" else "a"
        raise RowError(f"{where} has {article} {kind} in its content; only text is read")
    if kind != "text" or not isinstance(part.get("text"), str):
        raise RowError(f"{where} has a part of type '{kind}' in its content; only text is read")
    return str(part["text"])


def _calls(calls: object, where: str) -> list[Any]:
    """Return calls of tools with arguments as objects, which is what templates lay out.

    OpenAI's API gives arguments as JSON in a text; a template that writes them with ``tojson``
    would quote that once more, and nobody would see it.
    """
    calls = from_json(calls, f"tool_calls of {where}")
    if not isinstance(calls, list):
        raise RowError(f"{where} has tool_calls that are no list")
    return [_call(call, where) for call in calls]


def _call(call: object, where: str) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        raise RowError(f"{where} has a call of a tool that is no object")
    function = call.get("function", call)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RowError(f"{where} has a call of a tool without a name")
    arguments = from_json(function.get("arguments", {}), f"arguments of {where}")
    made = {**function, "arguments": arguments}
    return (
        {**call, "function": made} if "function" in call else {"type": CALL[:8], "function": made}
    )


def _out_of_order(role: str, before: str) -> str | None:
    if role in FIRST_ROLES and before:
        return f"a {role} turn after the {before} turn; it stands first, and once"
    if role == "assistant" and before in ("", *FIRST_ROLES):
        return "the assistant answers before anything is asked"
    if role == "tool" and before not in ("assistant", "tool"):
        asked = f"the {before}" if before else "no"
        return f"a tool answers after {asked} turn; it follows the assistant that called it"
    return None


def _empty(message: Message) -> str | None:
    role, content = message["role"], message["content"]
    if content.strip() or role == "tool" or message.get("tool_calls"):
        return None
    return "the answer is empty" if role == "assistant" else f"the {role} turn is empty"
