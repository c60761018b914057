"""Rows of a data file -> what they say: shapes that are recognised, and how each is read.

Here and not in the runtime, for ``validate`` looks at the first rows by the same rules.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from distrain.config.turns import (
    FIRST_ROLES,
    Message,
    RowError,
    check_turns,
    from_json,
    read_turns,
    without_filler,
)

FieldName = Literal[
    "prompt",
    "answer",
    "completion",
    "messages",
    "conversations",
    "instruction",
    "input",
    "output",
    "history",
    "system",
    "tools",
    "text",
    "chosen",
    "rejected",
]
FIELD_NAMES: tuple[FieldName, ...] = get_args(FieldName)
"""Fields that a shape is recognised by, or may have."""
MEDIA_FIELDS = ("images", "image", "videos", "audios", "audio")
"""Fields of rows beside whose text there is more."""
SHOWN_FIELDS = 8

Row = Mapping[str, Any]
"""A row with its fields named as here, and without those that hold nothing."""


@dataclass(frozen=True, slots=True)
class RowContent:
    """What a row says; see ``distrain.data.chats.example.Example``."""

    messages: tuple[Message, ...] = ()
    prompt: str = ""
    completion: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()


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


@dataclass(frozen=True, slots=True)
class RowShape:
    """A form in which people write examples down.

    Args:
        title: For people.
        needs: Fields by which it is recognised.
        takes: Fields that a row may have besides.
        read: Of a row and whether it has filler, what it says; ``None``: a preference, which is
            no example of fine-tuning.
        is_normalized: Whether its texts are written one way (``normalize``), as pairs always were.
            All other shapes stay as they are, blanks at their ends included: templates see them.
    """

    title: str
    needs: tuple[FieldName, ...]
    takes: tuple[FieldName, ...]
    read: Callable[[Row, bool], RowContent] | None
    is_normalized: bool = False

    @property
    def fields(self) -> tuple[FieldName, ...]:
        """Return all that is read of a row."""
        return (*self.needs, *self.takes)


@dataclass
class RowsOfSource:
    """Reads the rows of one source, which all have the shape of the first that has one.

    Args:
        fields: What the recipe says the fields are called.
        shape: Of the source, once a row showed it.
        ignored: Field that nothing reads -> rows that have it.
    """

    fields: Mapping[FieldName, str]
    shape: RowShape | None = None
    ignored: Counter[str] = field(default_factory=Counter)

    def read(self, row: object, *, has_filler: bool = False) -> RowContent:
        """Return what a row says.

        Raises:
            RowError: It is of another shape than the source, or makes no example.
        """
        found = named(row, self.fields)
        shape = self.shape or shape_of(found)
        if shape is None:
            raise RowError(unknown_shape(found))
        self.shape = shape
        content = read_row(found, shape, has_filler=has_filler)
        self.ignored.update(ignored_fields(found, shape))
        return content


def shape_of(names: Collection[str]) -> RowShape | None:
    """Return the shape of a row with fields of these names; the first that fits counts."""
    for shape in SHAPES:
        if all(name in names for name in shape.needs):
            return shape
    return None


def named(row: object, fields: Mapping[FieldName, str]) -> Row:
    """Return a row with its fields named as here.

    Raises:
        RowError: It is no object, or holds more than text.
    """
    if not isinstance(row, Mapping):
        raise RowError(f"{type(row).__name__} where an object is expected")
    found = {name: value for name, value in row.items() if value is not None}
    media = [name for name in MEDIA_FIELDS if found.get(name) not in (None, "", [])]
    if media:
        raise RowError(f"'{media[0]}' beside the text; only text is read")
    return renamed(found, fields) if fields else found


def renamed(row: Row, fields: Mapping[FieldName, str]) -> Row:
    """Return the fields of a row by their names here."""
    theirs = set(fields.values())
    moved = {ours: row[name] for ours, name in fields.items() if name in row}
    # What the recipe says is called otherwise is not meant by the name that it has here.
    kept = {name: row[name] for name in row if name not in theirs and name not in fields}
    return kept | moved


def read_row(row: Row, shape: RowShape, *, has_filler: bool = False) -> RowContent:
    """Return what a row of a shape says.

    Raises:
        RowError: It is of another shape, or makes no example.
    """
    found = shape_of(row)
    if found is not shape:
        raise RowError(_other_shape(row, shape, found))
    if shape.read is None:
        raise RowError(f"a preference, {_fields_shown(row)}; {PREFERENCE_REMEDY}")
    content = shape.read(row, has_filler)
    if content.completion is None:
        check_turns(content.messages)
    return content


def unknown_shape(row: Row) -> str:
    """Say what a row has that is of no shape, and which setting might read it."""
    remedy = suggested_fields(row)
    return f"a row of no form that is read, {_fields_shown(row)}; {remedy}"


def suggested_fields(names: Collection[str]) -> str:
    """Return the setting that would read rows with these fields."""
    chat = next((name for name in CHATS if name in names), None)
    if chat is not None:
        return f"set data.fields to {{messages: {chat}}}"
    prompt = next((name for name in PROMPTS if name in names), None)
    answer = next((name for name in ANSWERS if name in names and name != prompt), None)
    if prompt is not None and answer is not None:
        pairs = [("prompt", prompt), ("answer", answer)]
        shown = ", ".join(f"{ours}: {theirs}" for ours, theirs in pairs if ours != theirs)
        return f"set data.fields to {{{shown}}}"
    return "say in data.fields which are the prompt and the answer: {prompt: ..., answer: ...}"


def ignored_fields(row: Row, shape: RowShape) -> list[str]:
    """Return the fields of a row that nothing reads."""
    return [name for name in row if name not in shape.fields]


PROMPTS = ("prompt", "question", "query", "instruction", "input", "problem", "user", "human")
ANSWERS = ("answer", "response", "output", "solution", "completion", "target", "reply", "chosen")
CHATS = ("conversation", "dialog", "dialogue", "chat", "turns")
"""Names of fields that are likely to be what a shape calls otherwise, the likeliest first."""
PREFERENCE_REMEDY = (
    "sft reads one answer; to train on the chosen one, set data.fields to {answer: chosen}, or to "
    "{messages: chosen} where it is a whole chat"
)


def _other_shape(row: Row, shape: RowShape, found: RowShape | None) -> str:
    empty = [name for name in shape.needs if name not in row]
    if found is None:
        return f"no field '{empty[0]}' ({_fields_shown(row)})"
    return f"{found.title} in a file of {shape.title}; give it a source of its own"


def _fields_shown(row: Row) -> str:
    return f"it has {', '.join(list(row)[:SHOWN_FIELDS]) or 'no field'}"


def _read_chat(row: Row, has_filler: bool) -> RowContent:
    field = "messages" if "messages" in row else "conversations"
    messages = read_turns(row[field], field, has_filler=has_filler)
    return RowContent(_after_system(messages, row), tools=_tools(row, has_filler))


def _read_alpaca(row: Row, _: bool) -> RowContent:
    asked = [
        _text(row, name) for name in ("instruction", "input") if row.get(name) not in (None, "")
    ]
    messages = [message for pair in _history(row) for message in pair]
    messages.append({"role": "user", "content": "\n".join(asked)})
    messages.append({"role": "assistant", "content": _text(row, "output")})
    return RowContent(_after_system(messages, row))


def _read_pair(row: Row, has_filler: bool) -> RowContent:
    return _laid_in_turns(row, "answer", has_filler)


def _read_completion(row: Row, has_filler: bool) -> RowContent:
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


def _read_text(row: Row, _: bool) -> RowContent:
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


SHAPES = (
    RowShape("preference (chosen, rejected)", ("chosen", "rejected"), ("prompt", "messages"), None),
    RowShape("chat (messages)", ("messages",), ("system", "tools"), _read_chat),
    RowShape("ShareGPT (conversations)", ("conversations",), ("system", "tools"), _read_chat),
    RowShape(
        "Alpaca (instruction, output)",
        ("instruction", "output"),
        ("input", "system", "history"),
        _read_alpaca,
    ),
    RowShape("prompt and answer", ("prompt", "answer"), ("system", "tools"), _read_pair, True),
    RowShape(
        "prompt and completion", ("prompt", "completion"), ("system", "tools"), _read_completion
    ),
    RowShape("text", ("text",), (), _read_text),
)
"""Every shape; a new one is one line. Those that a row of two could be come first."""
