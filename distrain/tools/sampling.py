"""Documents of a stream as people read them: decoded, with control tokens shown by name."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distrain.data.shards.reader import ShardedTokens
from distrain.data.tokenizer.tokenizer import Tokenizer

Record = dict[str, Any]
NO_TOKEN = "no token"


@dataclass(frozen=True)
class Chosen:
    """One document: which of the streams it is of, and its number there."""

    stream: int
    document: int


def choose(streams: Sequence[ShardedTokens], count: int, seed: int) -> list[Chosen]:
    """Choose ``count`` different documents of all streams, each as likely, in their order."""
    firsts = np.cumsum([0, *(stream.num_documents for stream in streams)])
    total = int(firsts[-1])
    chosen = np.random.default_rng(seed).choice(total, min(count, total), replace=False)
    numbers = np.sort(chosen).astype(np.int64)
    places = np.searchsorted(firsts, numbers, side="right") - 1
    return [
        Chosen(place, number - int(firsts[place]))
        for place, number in zip(places.tolist(), numbers.tolist(), strict=True)
    ]


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


def show(
    stream: ShardedTokens, number: int, reader: Reader, *, max_tokens: int, with_ids: bool
) -> Record:
    """Describe one document.

    Args:
        stream: That holds it.
        number: Within the stream.
        reader: Without a tokenizer, ids are shown and no text.
        max_tokens: Shown at most; 0: all.
        with_ids: List the ids too, each with its name.
    """
    shard, start, stop = stream.document_span(number)
    shown = min(stop - start, max_tokens or stop - start)
    # Cut before decoding: a document may be a book, of which the first lines are asked for.
    tokens = stream.shards[shard].tokens(start, start + shown).astype(np.int64)
    record: Record = {
        "document": number,
        "shard": shard,
        "first_token": start,
        "tokens": stop - start,
        "shown": shown,
        "name": stream.name_of(number),
    }
    if reader.tokenizer is not None:
        record["pieces"] = list(reader.pieces(tokens))
    if with_ids:
        record["ids"] = [[token, reader.name_of(token)] for token in tokens.tolist()]
    return record
