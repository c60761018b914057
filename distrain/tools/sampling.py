"""Documents of a stream as people read them: decoded, with control tokens shown by name."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distrain.data.shards.reader import ShardedTokens
from distrain.data.tokenizer.reader import Reader, Record


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
