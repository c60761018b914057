"""How pairs were laid out before there were chats: what today's ids of pairs are compared with."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from distrain.data.tokenizer.chat_template import ChatTemplate, read_template
from distrain.data.tokenizer.control_text import ControlText, TextPieces
from distrain.data.tokenizer.layouts import own_template
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import DataError

STANDS_FOR_PROMPT, STANDS_FOR_ANSWER = "qzUSERzq", "qzASSISTANTzq"
"""Stand for a prompt and an answer, to find where a template puts them."""

Ids = list[int]


@dataclass(frozen=True, slots=True)
class LaidOutPair:
    """Ids of a pair in order; only ``prompt`` may lose its beginning.

    Args:
        before: What begins the text and the user's turn.
        prompt: What is asked.
        between: What ends that turn and begins the assistant's.
        answer: With what ends it: what is trained on.
    """

    before: Ids
    prompt: Ids
    between: Ids
    answer: Ids


class ChatLayout(Protocol):
    """A way to lay out pairs."""

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> list[LaidOutPair]:
        """Encode prompts and answers; control tokens in them are ordinary text."""

    def question(self, prompt: str) -> LaidOutPair:
        """Encode a prompt alone, so that an answer may follow."""

    @property
    def end_id(self) -> int:
        """The id that ends an answer."""

    @property
    def pad_id(self) -> int:
        """The id that fills up rows."""


def layout_of(path: Path, tokenizer: Tokenizer, *, has_clock: bool = False) -> ChatLayout:
    """Return the layout of the model whose tokenizer lies at ``path``, a file or its folder.

    Raises:
        DataError: Its chat template cannot be used.
    """
    folder = path if path.is_dir() else path.parent
    template = read_template(folder, today=datetime.now() if has_clock else None)
    if template is not None:
        return TemplateLayout(template, tokenizer, str(folder))
    if tokenizer.has_chat_tokens:
        return MarkedLayout(tokenizer)
    own = own_template(tokenizer, str(folder))
    return TemplateLayout(own, tokenizer, str(folder))


class MarkedLayout:
    """Our control tokens around prompt and answer, which are encoded each by itself."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        assert tokenizer.user_id is not None, "has_chat_tokens"
        assert tokenizer.assistant_id is not None, "has_chat_tokens"
        self.end_id: int = tokenizer.eos_id
        self.pad_id: int = tokenizer.pad_id
        self._before = [*tokenizer.prefix_ids, tokenizer.user_id]
        self._between = [tokenizer.assistant_id]

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> list[LaidOutPair]:
        """See ``ChatLayout``."""
        prompts = self._tokenizer.encode_batch([prompt for prompt, _ in pairs])
        answers = self._tokenizer.encode_batch([answer for _, answer in pairs])
        return [
            LaidOutPair(self._before, prompt, self._between, [*answer, self.end_id])
            for prompt, answer in zip(prompts, answers, strict=True)
        ]

    def question(self, prompt: str) -> LaidOutPair:
        """See ``ChatLayout``."""
        return LaidOutPair(self._before, self._tokenizer.encode(prompt), self._between, [])


class TemplateLayout:
    """A chat template: the whole text is encoded at once, as ``apply_chat_template`` does.

    Raises:
        DataError: It hides a prompt or an answer, or ends an answer with no control token.
    """

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer, where: str) -> None:
        self._template = template
        self._text = ControlText(tokenizer)
        self._where = where
        stand_ins = (STANDS_FOR_PROMPT, STANDS_FOR_ANSWER)
        parts = _split(template.render(_messages(*stand_ins)), stand_ins)
        asked = _split(template.render(_messages(STANDS_FOR_PROMPT), asks=True), stand_ins[:1])
        if parts is None or asked is None:
            raise self._unfit("one that does not show each message once, in order")
        self._parts, self._asked = parts, asked
        (ends,) = self._text.encode([TextPieces([parts[-1]], [False])])
        found = [n for n in ends.ids if n in self._text.control_ids]
        if not found:
            raise self._unfit("one that ends an answer with no control token")
        self.end_id: int = found[0]
        self.pad_id: int = tokenizer.pad_id

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> list[LaidOutPair]:
        """See ``ChatLayout``."""
        texts = [
            self._pieces(self._template.render(_messages(*pair)), self._parts, pair)
            for pair in pairs
        ]
        return [
            self._cut(list(encoded.ids), encoded.numbers().tolist())
            for encoded in self._text.encode(texts)
        ]

    def question(self, prompt: str) -> LaidOutPair:
        """See ``ChatLayout``."""
        text = self._template.render(_messages(prompt), asks=True)
        (encoded,) = self._text.encode([self._pieces(text, self._asked, (prompt,))])
        return self._cut(list(encoded.ids), encoded.numbers().tolist())

    def _pieces(self, text: str, parts: Sequence[str], contents: Sequence[str]) -> TextPieces:
        """Find the contents in a rendered text; templates may strip them."""
        for strip in (str, str.strip, str.rstrip, str.lstrip):
            found = [strip(content) for content in contents]
            mixed = [piece for pair in zip(parts, found, strict=False) for piece in pair]
            pieces = [*mixed, parts[-1]]
            if "".join(pieces) == text:
                return TextPieces(pieces, [number % 2 == 1 for number in range(len(pieces))])
        raise self._unfit(f"one that changes what it is given, such as {contents[0][:40]!r}")

    def _cut(self, ids: Ids, pieces: list[int]) -> LaidOutPair:
        """Give each id to the piece that it ends in; see ``ControlText``."""
        bounds = [sum(piece < number for piece in pieces) for number in range(1, 5)]
        start, between, answer, after = bounds
        end = after
        if answer < len(ids):
            end = next(n for n in range(after, len(ids)) if ids[n] == self.end_id) + 1
        return LaidOutPair(ids[:start], ids[start:between], ids[between:answer], ids[answer:end])

    def _unfit(self, found: str) -> DataError:
        return DataError(
            self._where,
            f"a chat template: {found}",
            "one that shows a prompt and then its answer, as they are, ended by a control token",
            "Give the folder another chat template, or none: distrain then writes its own.",
        )


def fitted(pair: LaidOutPair, max_tokens: int) -> tuple[Ids, int]:
    """Lay out a pair in at most ``max_tokens`` ids.

    What does not fit is cut from the beginning of the prompt; only an answer that is longer than
    the row by itself loses its end.

    Returns:
        The ids, and how many of them come before the answer.
    """
    marks = len(pair.before) + len(pair.between)
    # The answer takes its room first, for it is what is trained on.
    room = max(0, max_tokens - len(pair.answer) - marks)
    # Its end stays: the question is mostly there, and the answer follows it.
    prompt = pair.prompt[max(0, len(pair.prompt) - room) :]
    head = [*pair.before, *prompt, *pair.between]
    return [*head, *pair.answer][:max_tokens], len(head)


def _messages(*contents: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]


def _split(text: str, marks: Sequence[str]) -> list[str] | None:
    """Cut a text at each mark, if each is there once and in order."""
    parts = []
    for mark in marks:
        part, found, text = text.partition(mark)
        if not found or any(other in part for other in marks):
            return None
        parts.append(part)
    return None if any(mark in text for mark in marks) else [*parts, text]
