"""Examples of fine-tuning as ids, with what is trained of them, by a model's chat template.

A template is asked once about each shape of chats (``rendering.py``), which gives the places of
strings and of what the assistant says (``spans.py``). Each chat is then laid out by the template
itself, and compared with its shape: only where both are equal are the places known.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from distrain.config.data import EngineName
from distrain.config.huggingface import GENERATION_FILE
from distrain.data.chats.example import EncodedExample, Example, Message
from distrain.data.chats.rendering import UnfitError
from distrain.data.chats.shaped_template import ChatText, ShapedTemplate, TrainOn
from distrain.data.tokenizer.chat_template import OWN_ARGUMENTS, read_template
from distrain.data.tokenizer.control_text import ControlText, TextPieces
from distrain.data.tokenizer.encoders import REFERENCE
from distrain.data.tokenizer.layouts import own_template
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import DataError
from distrain.runs.records import read_json

log = logging.getLogger(__name__)

MANY = 10_000
"""Examples from which on a faster engine is looked for: comparing it takes two seconds."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An example that is not trained on.

    Args:
        path: Of the example.
        reason: In a word, for counts.
        detail: What is wrong with it, for people: ``messages[2].tool_calls[0].function.name is
            not in what the chat template makes``.
    """

    path: str
    reason: str
    detail: str


class ChatEncoder:
    """Encodes examples by a model's chat template, or by ours where it has none.

    Args:
        path: The model's folder, or a tokenizer file in it.
        tokenizer: The one that lies there.
        train_on: Which turns are targets: all of the assistant's, the last one, those after the
            last of the user, or every token of the text.
        template_arguments: What the template is given besides messages and tools.
        today: What ``strftime_now`` of a template tells; without it templates have no clock.
        engine: ``auto``: a faster engine encodes many examples, where it gives equal ids.

    Attributes:
        stripped: Turns so far whose thoughts the template left out, since later turns follow.
        odd: Examples so far that begin their answer otherwise than the template's generation
            prompt does: with it, a model is asked for another text than it was trained on.

    Raises:
        DataError: The chat template cannot be used.
    """

    def __init__(
        self,
        path: Path,
        tokenizer: Tokenizer,
        *,
        train_on: TrainOn = "assistant",
        template_arguments: Mapping[str, Any] | None = None,
        today: date | None = None,
        engine: EngineName = "tokenizers",
    ) -> None:
        folder = path if path.is_dir() else path.parent
        _check_arguments(template_arguments or {})
        self.train_on = train_on
        self.stripped = self.odd = 0
        self.pad_id: int = tokenizer.pad_id
        self._tokenizer = tokenizer
        self._text = ControlText(tokenizer)
        self._seeks_engine = engine != REFERENCE
        given: dict[str, Any] = {"arguments": template_arguments, "today": today}
        own = own_template(tokenizer, str(folder), **given)
        self._layout = ShapedTemplate(
            read_template(folder, **given) or own, self._text, _end_ids(folder, tokenizer), folder
        )
        with_tools = read_template(folder, tools=True, **given)
        _tell_unread(self.unread)
        self._tool_layout = self._layout
        if with_tools is not None and with_tools.source != self._layout.template.source:
            self._tool_layout = ShapedTemplate(
                with_tools, self._text, _end_ids(folder, tokenizer), folder
            )

    @property
    def unread(self) -> tuple[str, ...]:
        """Names of template arguments that change nothing."""
        return self._layout.template.unread

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a turn of the assistant, or a text."""
        return self._layout.stop_ids | self._tool_layout.stop_ids

    def encode(self, examples: Sequence[Example]) -> list[EncodedExample | Refused]:
        """Encode examples in order; one may give several, each with its path."""
        laid_out: list[ChatText | Refused] = []
        for example in examples:
            try:
                laid_out += self._lay_out(example)
            except UnfitError as error:
                laid_out.append(Refused(example.path, error.reason, error.detail))
        return self._encoded(laid_out)

    def question(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> EncodedExample:
        """Encode turns so that the assistant's may follow; nothing of them is trained.

        Raises:
            DataError: The template refuses them, or leaves out what they say.
        """
        example = Example("the chat", tuple(messages), tools=tuple(tools))
        try:
            text = self._layout_of(example).question(example)
        except UnfitError as error:
            raise DataError(
                "the chat", error.detail, "turns that the model's template shows", "Change them."
            ) from error
        (found,) = self._encoded([text])
        assert isinstance(found, EncodedExample), "only a text is given"
        return found

    def _layout_of(self, example: Example) -> "ShapedTemplate":
        return self._tool_layout if example.tools else self._layout

    def _lay_out(self, example: Example) -> list[ChatText]:
        if example.completion is not None:
            return [self._plain(example)]
        found = self._layout_of(example).examples(example, self.train_on)
        self.stripped += sum(part.stripped for part, _ in found)
        self.odd += sum(part.is_odd for part, _ in found)
        return [text for _, text in found]

    def _plain(self, example: Example) -> ChatText:
        """Lay out a text without turns: its beginning is not trained, and an end follows."""
        if not example.completion:
            raise UnfitError("empty", "its completion is empty")
        name_of = self._tokenizer.name_of
        texts = [
            "".join(map(name_of, self._tokenizer.prefix_ids)),
            example.prompt,
            example.completion,
            name_of(self._tokenizer.eos_id),
        ]
        asked = self.train_on == "all"
        return ChatText(
            example.path,
            TextPieces(texts, [False, True, True, False]),
            (asked, asked, True, True),
            (False, True, True, False),
        )

    def _encoded(self, texts: Sequence[ChatText | Refused]) -> list[EncodedExample | Refused]:
        pieces_of = [text.pieces for text in texts if isinstance(text, ChatText)]
        if self._seeks_engine and len(pieces_of) >= MANY:
            self._seeks_engine = False  # it is chosen once
            log.info("examples are encoded by %s", self._text.take_engine(pieces_of))
        found = iter(self._text.encode(pieces_of))
        result: list[EncodedExample | Refused] = []
        for text in texts:
            if isinstance(text, Refused):
                result.append(text)
                continue
            encoded = next(found)
            pieces = encoded.numbers()
            result.append(
                EncodedExample(
                    text.path,
                    np.array(encoded.ids, np.int32),
                    np.array(text.is_trained, np.bool_)[pieces],
                    np.array(text.may_go, np.bool_)[pieces],
                )
            )
        return result


def _end_ids(folder: Path, tokenizer: Tokenizer) -> frozenset[int]:
    """Return the ids that end a text: the tokenizer's, and what the model generates up to."""
    named = (read_json(folder / GENERATION_FILE) or {}).get("eos_token_id")
    ids = named if isinstance(named, list) else [named]
    return frozenset({tokenizer.eos_id, *(number for number in ids if isinstance(number, int))})


def _tell_unread(names: Sequence[str]) -> None:
    """Warn of arguments that change nothing; a base of another version may well know them."""
    for name in names:
        log.warning(
            "data.template_arguments: the chat template never reads '%s'; it changes nothing",
            name,
        )


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    taken = sorted(OWN_ARGUMENTS & set(arguments))
    if taken:
        raise DataError(
            "data.template_arguments",
            f"the argument {taken[0]}",
            "arguments of the chat template, such as enable_thinking",
            f"Remove {taken[0]}: it is given by the examples.",
        )
