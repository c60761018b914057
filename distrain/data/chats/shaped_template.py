"""Chats as texts in pieces, each laid out by a template and compared with its shape."""

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distrain.data.chats.example import Example
from distrain.data.chats.parts import ChatPart, Compared, make_part
from distrain.data.chats.rendering import Rendering, Shape, Shaper, UnfitError
from distrain.data.chats.spans import TurnFinder
from distrain.data.chats.template import TemplateFacts, find_facts, render_shape, unfit_template
from distrain.data.tokenizer.chat_template import ChatTemplate
from distrain.data.tokenizer.control_text import ControlText, TextPieces
from distrain.errors import DataError

TrainOn = Literal["assistant", "last", "completion", "all"]

MAX_SHAPES = 4096
"""Shapes that are kept; where every chat has its own, they would fill the memory."""


@dataclass(frozen=True, slots=True)
class ChatText:
    """A text to be encoded, in pieces."""

    path: str
    pieces: TextPieces
    is_trained: Sequence[bool]
    may_go: Sequence[bool]


class ShapedTemplate:
    """Lays out chats by one template; keeps what it knows of their shapes."""

    def __init__(
        self, template: ChatTemplate, text: ControlText, end_ids: frozenset[int], folder: Path
    ) -> None:
        self.template = template
        self._text = text
        self.facts: TemplateFacts = find_facts(template, text, str(folder))
        self.stop_ids = end_ids | self.facts.end_ids
        if not self.facts.end_ids:
            raise unfit_template(str(folder), "one that ends an answer with no control token")
        tests, blocks = template.tested, self.facts.blocks
        # Most templates take contents as they are; some strip them, some look into them.
        self._shapers = (
            Shaper(tests, blocks=blocks),
            Shaper(tests, trims=True, blocks=blocks),
            Shaper(tests, trims=True, everywhere=True, blocks=blocks),
        )
        self._finder = TurnFinder(
            self._render,
            self._find_stop,
            has_marks=template.has_marks,
            header=self.facts.header,
        )
        self._known: dict[Hashable, list[ChatPart] | UnfitError] = {}

    def examples(self, example: Example, train_on: TrainOn) -> list[tuple[ChatPart, ChatText]]:
        """Lay out what an example gives.

        Raises:
            UnfitError: It cannot be trained on.
        """
        return self._laid_out(example, train_on, lambda shape: self._parts(shape, train_on))

    def question(self, example: Example) -> ChatText:
        """Lay out turns so that an answer may follow."""
        ((_, text),) = self._laid_out(example, "question", self._question_part)
        return text

    def _laid_out(
        self, example: Example, purpose: str, make: Callable[[Shape], list[ChatPart]]
    ) -> list[tuple[ChatPart, ChatText]]:
        for shaper in self._shapers:
            messages = shaper.messages(example.messages)
            key, strings = shaper.take(messages, example.tools)
            parts = self._known.get((purpose, key))
            if parts is None:
                shape = shaper.shape(messages, example.tools)
                parts = self._keep((purpose, key), shape, make)
            if isinstance(parts, UnfitError):
                raise parts
            found = [(part, self._filled(part, messages, example, strings)) for part in parts]
            if all(text is not None for _, text in found):
                return [(part, text) for part, text in found if text is not None]
        raise UnfitError("changed", "the chat template changes what it is given")

    def _keep(
        self, key: Hashable, shape: Shape, make: Callable[[Shape], list[ChatPart]]
    ) -> list[ChatPart] | UnfitError:
        found: list[ChatPart] | UnfitError
        try:
            found = make(shape)
        except UnfitError as error:
            found = error
        except DataError as error:
            found = UnfitError("refused by the template", error.found)
        if len(self._known) >= MAX_SHAPES:
            self._known.clear()
        self._known[key] = found
        return found

    def _parts(self, shape: Shape, train_on: TrainOn) -> list[ChatPart]:
        count = len(shape.messages)
        turns = [n for n in range(count) if shape.messages[n]["role"] == "assistant"]
        if train_on == "all":
            whole = self._render(shape, count, False)
            span = (0, len(whole.text))
            return [
                make_part(shape, [(Compared(count, False), whole, span)], [span], set(turns[-1:]))
            ]
        if train_on == "last":
            turns = turns[-1:]
        if train_on == "completion":
            asked = [n for n in range(count) if shape.messages[n]["role"] == "user"]
            turns = [n for n in turns if n > max(asked, default=-1)]
        if not turns:
            raise UnfitError("no answer", "no turn of the assistant is to be trained")
        return self._finder.parts(shape, turns)

    def _question_part(self, shape: Shape) -> list[ChatPart]:
        count = len(shape.messages)
        asked = self._render(shape, count, True)
        source = (Compared(count, True), asked, (0, len(asked.text)))
        return [make_part(shape, [source], [], set())]

    def _render(self, shape: Shape, count: int, asks: bool) -> Rendering:
        return render_shape(self.template, shape, count, asks=asks)

    def _find_stop(self, text: str) -> int | None:
        for name, end in self._text.control_names(text):
            if self._text.id_of(name) in self.stop_ids:
                return end
        return None

    def _filled(
        self,
        part: ChatPart,
        messages: Sequence[Mapping[str, Any]],
        example: Example,
        strings: Sequence[str],
    ) -> ChatText | None:
        """Put strings into the slots of a part; ``None`` if the template makes another text."""
        layouts = []
        for source, layout in zip(part.sources, part.layouts, strict=True):
            try:
                real = self.template.render(
                    messages[: source.count], asks=source.asks, tools=example.tools
                )
            except DataError as error:
                raise UnfitError("refused by the template", error.found) from error
            filled = fill(layout, strings, real)
            if filled is None:
                return None
            layouts.append(filled)
        texts = [
            layouts[piece.source][piece.number][piece.start : piece.stop] for piece in part.pieces
        ]
        return ChatText(
            example.path,
            TextPieces(texts, [piece.is_content for piece in part.pieces]),
            [piece.is_trained for piece in part.pieces],
            [piece.may_go for piece in part.pieces],
        )


def fill(layout: Sequence[str | int], strings: Sequence[str], real: str) -> list[str] | None:
    """Put strings into slots so that a text becomes ``real``: as they are, or as JSON has them."""
    plain = [strings[piece] if isinstance(piece, int) else piece for piece in layout]
    if "".join(plain) == real:
        return plain
    done, filled = 0, []
    for number, piece in enumerate(layout):
        forms = [piece] if isinstance(piece, str) else _forms(strings[piece])
        # Pieces alternate, so what follows a slot tells which form it has.
        then = layout[number + 1] if number + 1 < len(layout) else ""
        found = next((form for form in forms if _follows(real, done, form, then)), None)
        if found is None:
            return None
        filled.append(found)
        done += len(found)
    return filled if done == len(real) else None


def _follows(real: str, at: int, form: str, then: str | int) -> bool:
    return real.startswith(form + then if isinstance(then, str) else form, at)


def _forms(text: str) -> list[str]:
    """Return how a template may write a string: as it is, or inside of JSON or of Python."""
    quoted = (json.dumps(text, ensure_ascii=False), json.dumps(text), repr(text))
    return [text, *(form[1:-1] for form in quoted)]
