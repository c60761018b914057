"""Examples of fine-tuning as ids, with what is trained of them, by a model's chat template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distrain.data.chats.example import EncodedExample, Example, Message
from distrain.data.tokenizer.layouts import Ids, LaidOutPair, layout_of
from distrain.data.tokenizer.tokenizer import Tokenizer

TrainOn = Literal["assistant", "last", "completion", "all"]


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
        train_on: Which turns are targets.
        template_arguments: What the template is given besides messages and tools.
        today: What ``strftime_now`` of a template tells; without it templates have no clock.

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
    ) -> None:
        self._layout = layout_of(path, tokenizer)
        self.train_on = train_on
        self.template_arguments = dict(template_arguments or {})
        self.today = today

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a turn of the assistant."""
        return frozenset({self._layout.end_id})

    @property
    def pad_id(self) -> int:
        """The id that fills up rows; it may be one of ``stop_ids``, so no mask goes by it."""
        return self._layout.pad_id

    def encode(self, examples: Sequence[Example]) -> list[EncodedExample | Refused]:
        """Encode examples in order; one may give several, each with its path."""
        pairs = [
            (str(example.messages[0]["content"]), str(example.messages[1]["content"]))
            for example in examples
        ]
        return [
            _of_pair(example.path, pair)
            for example, pair in zip(examples, self._layout.pairs(pairs), strict=True)
        ]

    def question(self, messages: Sequence[Message]) -> EncodedExample:
        """Encode turns so that the assistant's may follow; nothing of them is trained."""
        return _of_pair("question", self._layout.question(str(messages[-1]["content"])))


def _of_pair(path: str, pair: LaidOutPair) -> EncodedExample:
    parts = (pair.before, pair.prompt, pair.between, pair.answer)
    return EncodedExample(
        path,
        np.array([token for part in parts for token in part], np.int32),
        _flags(parts, (False, False, False, True)),
        _flags(parts, (False, True, False, False)),
    )


def _flags(parts: Sequence[Ids], flags: Sequence[bool]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.repeat(np.array(flags), [len(part) for part in parts])
