"""Rows of a data file -> what they say: shapes that are recognized, and how each is read.

Here and not in the runtime, for ``validate`` looks at the first rows by the same rules.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from distrain.config.row_contents import (
    Row,
    RowContent,
    check_same_question,
    read_alpaca,
    read_chat,
    read_completion,
    read_pair,
    read_preference,
    read_text,
)
from distrain.config.turns import RowError, check_turns

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
"""Fields that a shape is recognized by, or may have."""
MEDIA_FIELDS = ("images", "image", "videos", "audios", "audio")
"""Fields of rows beside whose text there is more."""
SHOWN_FIELDS = 8


@dataclass(frozen=True, slots=True)
class RowShape:
    """A form in which people write examples down.

    Args:
        title: For people.
        needs: Fields by which it is recognized.
        takes: Fields that a row may have besides.
        read: Of a row and whether it has filler, what it says.
        is_normalized: Whether its texts are written one way (``normalize``), as pairs always were.
            All other shapes stay as they are, blanks at their ends included: templates see them.
    """

    title: str
    needs: tuple[FieldName, ...]
    takes: tuple[FieldName, ...]
    read: Callable[[Row, bool], RowContent]
    is_normalized: bool = False
    is_preference: bool = False
    """Whether it has two answers, which ``sft`` does not read and ``preference`` asks for."""

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
        wants_preferences: Whether a row has to have two answers.
    """

    fields: Mapping[FieldName, str]
    shape: RowShape | None = None
    ignored: Counter[str] = field(default_factory=Counter)
    wants_preferences: bool = False

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
        content = read_row(
            found, shape, has_filler=has_filler, wants_preferences=self.wants_preferences
        )
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


def read_row(
    row: Row, shape: RowShape, *, has_filler: bool = False, wants_preferences: bool = False
) -> RowContent:
    """Return what a row of a shape says.

    Raises:
        RowError: It is of another shape, or makes no example.
    """
    found = shape_of(row)
    if found is not shape:
        raise RowError(_other_shape(row, shape, found))
    problem = unwanted_shape(row, shape, wants_preferences=wants_preferences)
    if problem is not None:
        raise RowError(problem)
    content = shape.read(row, has_filler)
    if content.completion is None:
        check_turns(content.messages)
    if shape.is_preference:
        check_turns(content.rejected)
        check_same_question(content.messages, content.rejected)
    return content


def unwanted_shape(row: Row, shape: RowShape, *, wants_preferences: bool) -> str | None:
    """Say what is wrong with rows of a shape for a stage; ``None``: it reads such rows."""
    if shape.is_preference == wants_preferences:
        return None
    if shape.is_preference:
        return f"a preference, {_fields_shown(row)}; {PREFERENCE_REMEDY}"
    return f"{shape.title}, {_fields_shown(row)}; {ANSWER_REMEDY}"


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
    "sft reads one answer (kind: preference both); to train on the chosen one, set data.fields to "
    "{answer: chosen}, or to {messages: chosen} where it is a whole chat"
)
ANSWER_REMEDY = (
    "preference reads two answers, chosen and rejected; say in data.fields what they are called: "
    "{prompt: ..., chosen: ..., rejected: ...}"
)


def _other_shape(row: Row, shape: RowShape, found: RowShape | None) -> str:
    empty = [name for name in shape.needs if name not in row]
    if found is None:
        return f"no field '{empty[0]}' ({_fields_shown(row)})"
    return f"{found.title} in a file of {shape.title}; give it a source of its own"


def _fields_shown(row: Row) -> str:
    return f"it has {', '.join(list(row)[:SHOWN_FIELDS]) or 'no field'}"


SHAPES = (
    RowShape(
        "preference (chosen, rejected)",
        ("chosen", "rejected"),
        ("prompt", "messages", "system", "tools"),
        read_preference,
        is_preference=True,
    ),
    RowShape("chat (messages)", ("messages",), ("system", "tools"), read_chat),
    RowShape("ShareGPT (conversations)", ("conversations",), ("system", "tools"), read_chat),
    RowShape(
        "Alpaca (instruction, output)",
        ("instruction", "output"),
        ("input", "system", "history"),
        read_alpaca,
    ),
    RowShape("prompt and answer", ("prompt", "answer"), ("system", "tools"), read_pair, True),
    RowShape(
        "prompt and completion", ("prompt", "completion"), ("system", "tools"), read_completion
    ),
    RowShape("text", ("text",), (), read_text),
)
"""Every shape; a new one is one line. Those that a row of two could be come first."""
