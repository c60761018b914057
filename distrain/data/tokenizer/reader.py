"""Ids as people read them: decoded, with control tokens by name between the texts."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distrain.data.tokenizer.tokenizer import Tokenizer

Record = dict[str, Any]
NO_TOKEN = "no token"


class Reader:
    """Turns ids into what can be read.

    Args:
        tokenizer: That made the ids; ``None``: ids stay ids.
    """

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self.tokenizer = tokenizer
        if tokenizer is not None:
            self._is_text = tokenizer.token_bytes() > 0

    def pieces(self, tokens: NDArray[np.int64]) -> Iterator[Record]:
        """Yield the texts and, between them, the tokens that are no text, in order."""
        assert self.tokenizer is not None
        # Ids may lie beyond the vocabulary: of a padded embedding, or under the wrong tokenizer,
        # which is what the reader may be looking for.
        known = tokens < len(self._is_text)
        is_text = known & self._is_text[np.where(known, tokens, 0)]
        for part in np.split(tokens, np.flatnonzero(np.diff(is_text)) + 1):
            if len(part) and self._has_text(int(part[0])):
                yield {"text": self.tokenizer.decode(part.tolist())}
            else:
                yield from ({"control": self.name_of(id_), "id": id_} for id_ in part.tolist())

    def name_of(self, token: int) -> str:
        """Return the vocabulary's name of an id."""
        if self.tokenizer is None or token >= len(self._is_text):
            return NO_TOKEN
        return self.tokenizer.name_of(token)

    def _has_text(self, token: int) -> bool:
        return token < len(self._is_text) and bool(self._is_text[token])
