"""An example of fine-tuning: as it was read, and as ids with what is trained of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distrain.config.row_contents import question_of

Message = Mapping[str, Any]
"""A turn as chat templates take it: ``role``, ``content`` (text or ``None``), and whatever else a
row gave, such as ``tool_calls``, ``reasoning_content``, ``name``."""

CHOSEN, REJECTED = " (chosen)", " (rejected)"
"""Ends of the paths of the two answers of a preference."""


@dataclass(frozen=True, slots=True)
class Example:
    """What one row says, whatever shape it had.

    Args:
        path: Where it was read, for people: ``chats.jsonl:12`` or ``json/decoder.py:42``.
        messages: Turns in order, for a chat template; empty for plain text.
        prompt: Of an example without a template, what stands before its completion; not trained.
        completion: Of an example without a template, what is trained, or ``None`` for a chat.
        tools: What a template is told of tools, as JSON values.
        rejected: Of a preference, the turns with the worse answer; ``messages`` has the better.
    """

    path: str
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    completion: str | None = None
    tools: tuple[Mapping[str, Any], ...] = field(default=())
    rejected: tuple[Message, ...] = ()

    @property
    def asked(self) -> str:
        """Return what decides on the split; see ``question_of``."""
        return question_of(self)

    @property
    def answers(self) -> "tuple[Example, Example]":
        """Return the chosen and the rejected answer of a preference, each with what it answers."""
        return (
            replace(self, path=f"{self.path}{CHOSEN}", rejected=()),
            replace(self, path=f"{self.path}{REJECTED}", messages=self.rejected, rejected=()),
        )


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """Ids of an example; arrays of one shape (tokens,).

    Args:
        path: Of the example.
        ids: int32.
        is_trained: Tokens that are targets: what the assistant says, and what ends it.
        may_go: Tokens of contents, which a text that is too long may lose; marks of turns and the
            system's words are none.
    """

    path: str
    ids: NDArray[np.int32]
    is_trained: NDArray[np.bool_]
    may_go: NDArray[np.bool_]

    @property
    def num_context(self) -> int:
        """Tokens before the first that is trained; all of them if none is."""
        return int(self.is_trained.argmax()) if self.is_trained.any() else len(self.ids)
