"""A chat with its strings taken out: what is left decides where a template puts them.

Each string becomes a slot, a short name that a template treats like any other text. Chats of one
shape (roles, keys, numbers, white space around strings) are laid out alike, so a template is asked
about a shape once; a chat of it is that layout with its strings in the slots, and is compared with
what the template makes of the chat itself (``encoder.py``).
"""

import json
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from distrain.data.chats.example import Message
from distrain.data.tokenizer.chat_template import REASONING, SPAN_END, SPAN_START

SLOT = re.compile(r"qzSLOT([0-9]+)zq")
Kind = Literal["content", "reasoning", "call", "tool", "other"]

KINDS: dict[str, Kind] = {
    **dict.fromkeys(REASONING, "reasoning"),
    "content": "content",
    "tool_calls": "call",
}
KEPT = frozenset({"role", "type", "id", "tool_call_id"})
"""Keys whose strings templates compare: they stay as they are."""
KEYWORDS = frozenset({"type", "format", "required"})
"""Keys of a tool's schema whose strings are no text of the user."""

ENDS_THOUGHT = "</think>"


class UnfitError(ValueError):
    """A chat cannot be trained on; the message says why and where.

    Args:
        reason: In a word, for counts.
        detail: For people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Slot:
    """A string of a chat, or a part of one.

    Args:
        path: ``messages[2].tool_calls[0].function.name``.
        turn: Number of its message; -1 of a tool.
        kind: What it is to the chat; of ``other``, a template may show nothing.
    """

    path: str
    turn: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class Shape:
    """A chat with slots for strings.

    Args:
        messages: As a template takes them.
        tools: Likewise.
        slots: By number.
    """

    messages: list[dict[str, Any]]
    tools: list[Any]
    slots: list[Slot]


@dataclass(frozen=True, slots=True)
class SlotPlace:
    """Where a slot stands in a text that a template made of a shape; characters."""

    start: int
    end: int
    slot: int


@dataclass(frozen=True, slots=True)
class Rendering:
    """What a template makes of a shape.

    Args:
        text: With the names of slots in it.
        places: Of slots, in order; one may stand in several, or in none.
        spans: What ``{% generation %}`` marks, as (start, end) in characters.
    """

    text: str
    places: list[SlotPlace]
    spans: list[tuple[int, int]]

    @classmethod
    def of(cls, marked: str) -> "Rendering":
        """Read a text with the marks of ``ChatTemplate.render(marks=True)``."""
        text, spans, start = "", [], 0
        for piece in re.split(f"([{SPAN_START}{SPAN_END}])", marked):
            if piece == SPAN_START:
                start = len(text)
            elif piece == SPAN_END:
                spans.append((start, len(text)))
            else:
                text += piece
        places = [SlotPlace(*found.span(), int(found[1])) for found in SLOT.finditer(text)]
        return cls(text, places, spans)

    def pieces(self) -> list[str | int]:
        """Return the text between slots, and the numbers of slots, in turn."""
        return [
            int(piece) if number % 2 else piece
            for number, piece in enumerate(SLOT.split(self.text))
        ]


class Shaper:
    """Takes chats apart into shapes and strings.

    Args:
        tests: What a template looks for in an assistant's content: such strings stay in the shape,
            for the text around them may be laid out apart.
        trims: White space around strings stays in the shape, too: a template may strip it.
        everywhere: What is looked for stays in all strings, not only in the assistant's.
        blocks: Contents are given as ``[{"type": "text", "text": ...}]``.
    """

    def __init__(
        self,
        tests: frozenset[str],
        *,
        trims: bool = False,
        everywhere: bool = False,
        blocks: bool = False,
    ) -> None:
        self._trims = trims
        self._tests = sorted(tests, key=lambda text: (-len(text), text))
        self._split = re.compile(f"({'|'.join(map(re.escape, self._tests))})") if tests else None
        self._everywhere = everywhere
        self._blocks = blocks

    def messages(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Return messages as the template takes them."""
        return [self._message(message, number) for number, message in enumerate(messages)]

    def take(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> tuple[Hashable, list[str]]:
        """Return what two chats of one shape share, and the strings of this one in order."""
        texts: list[str] = []
        key: tuple[Hashable, ...] = tuple(
            tuple(
                (name, self._cut(name, value, message["role"], texts))
                for name, value in message.items()
            )
            for message in messages
        )
        # Whole sets of chats share their tools.
        told = json.dumps(tools, sort_keys=False, ensure_ascii=False) if tools else ""
        if told:
            key = (*key, told)
            texts += [text for tool in tools for text in self._tool_texts(tool)]
        return key, texts

    def shape(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> Shape:
        """Return the shape itself."""
        shape = Shape([], [], [])
        for turn, message in enumerate(messages):
            put = {}
            for name, value in message.items():
                kind = KINDS.get(name, "other")
                where = f"messages[{turn}].{name}"
                slot = Slot(where, turn, kind)
                put[name] = self._put(value, name, slot, message["role"], shape.slots)
            shape.messages.append(put)
        for number, tool in enumerate(tools):
            slot = Slot(f"tools[{number}]", -1, "tool")
            shape.tools.append(self._put(tool, "", slot, "tool", shape.slots))
        return shape

    def _message(self, message: Message, number: int) -> dict[str, Any]:
        given = {key: value for key, value in message.items() if value is not None}
        content = given.get("content")
        if self._blocks and isinstance(content, str):
            given["content"] = [{"type": "text", "text": content}]
        elif isinstance(content, list | tuple):
            for place, block in enumerate(content):
                kind = block.get("type", "text") if isinstance(block, Mapping) else "text"
                if kind != "text":
                    raise UnfitError(
                        "media",
                        f"messages[{number}].content[{place}] is of type {kind!r}: text is read",
                    )
        return given

    def _cut(self, key: str, value: Any, role: str, texts: list[str]) -> Hashable:  # noqa: ANN401
        """Return what stays of a value, and move its strings to ``texts``."""
        if isinstance(value, str):
            if key in KEPT:
                return value
            literals, cores = self._pieces(value, role)
            texts += cores
            return literals
        if isinstance(value, Mapping):
            return tuple(
                (name, self._cut(_within(key, name), item, role, texts))
                for name, item in value.items()
            )
        if isinstance(value, list | tuple):
            return (list, *(self._cut(key, item, role, texts) for item in value))
        return (type(value), value)  # for 1 == True

    def _tool_texts(self, value: Any, key: str = "") -> Iterator[str]:  # noqa: ANN401
        if isinstance(value, str):
            if key not in KEYWORDS:
                yield from self._pieces(value, "tool")[1]
        elif isinstance(value, Mapping):
            for name, item in value.items():
                yield from self._tool_texts(item, name)
        elif isinstance(value, list | tuple):
            for item in value:
                yield from self._tool_texts(item, key)

    def _put(self, value: Any, key: str, slot: Slot, role: str, slots: list[Slot]) -> Any:  # noqa: ANN401
        """Return a value with slots for strings; ``slot``: the one that it would be itself."""
        if isinstance(value, str):
            if key in (KEYWORDS if slot.kind == "tool" else KEPT):
                return value
            return self._slotted(value, slot, role, slots)
        if isinstance(value, Mapping):
            return {
                name: self._put(
                    item,
                    name if slot.kind == "tool" else _within(key, name),
                    replace(slot, path=f"{slot.path}.{name}"),
                    role,
                    slots,
                )
                for name, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [
                self._put(item, key, replace(slot, path=f"{slot.path}[{number}]"), role, slots)
                for number, item in enumerate(value)
            ]
        return value

    def _slotted(self, value: str, slot: Slot, role: str, slots: list[Slot]) -> str:
        literals, _ = self._pieces(value, role)
        text = literals[0]
        for number, literal in enumerate(literals[1:], start=1):
            # What stands before the end of a thought is one, wherever the template puts it.
            thinks = role == "assistant" and any(
                ENDS_THOUGHT in later for later in literals[number:]
            )
            text += f"qzSLOT{len(slots)}zq{literal}"
            slots.append(replace(slot, kind="reasoning") if thinks else slot)
        return text

    def _pieces(self, text: str, role: str) -> tuple[tuple[str, ...], list[str]]:
        """Return what stays of a string (one more than its slots), and what goes into them."""
        is_tested = self._split is not None and (self._everywhere or role == "assistant")
        if not is_tested or not any(test in text for test in self._tests):
            core = text.strip()
            if core and not self._trims:
                core = text
            if len(core) == len(text):
                return (("", ""), [text]) if text else (("",), [])
            if not core:
                return ((text,), [])
            start = text.index(core)
            return ((text[:start], text[start + len(core) :]), [core])
        assert self._split is not None
        literals, cores = [""], []
        for number, part in enumerate(self._split.split(text)):
            # Around what is looked for, white space is mostly taken away.
            core = "" if number % 2 else part.strip()
            if not core:
                literals[-1] += part
                continue
            start = part.index(core)
            literals[-1] += part[:start]
            literals.append(part[start + len(core) :])
            cores.append(core)
        return tuple(literals), cores


def common_length(one: str, other: str) -> int:
    """Count the characters with which both begin."""
    if other.startswith(one):
        return len(one)
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


def _within(key: str, name: str) -> str:
    """Name a value by its key; what a tool is called with has names of its own."""
    return key if key == "arguments" else name
