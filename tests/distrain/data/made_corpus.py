"""Small made splits for the tests of layers 2 and 3."""

import random

from distrain.data.shards.digests import BLOCK_BYTES
from distrain.data.shards.writer import DataOrigin, ShardWriter
from distrain.data.tokenizer.tokenizer import Tokenizer, train_tokenizer

WORDS = ["def", "return", "self", "value", "import", "class", "name", "list", "for", "in", "0", "1"]


def make_texts(count, seed=0):
    choose = random.Random(seed)
    return [
        f"# {seed}.{number}\n" + " ".join(choose.choices(WORDS, k=choose.randint(3, 120)))
        for number in range(count)
    ]


def make_tokenizer(folder, vocab_size=300):
    file = folder / "tokenizer.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(train_tokenizer(make_texts(50), vocab_size=vocab_size, min_frequency=2))
    return Tokenizer.load(file)


def write_split(  # noqa: PLR0913
    folder, split, texts, *, source="main", shard_tokens=1000, pairs=None, block_bytes=BLOCK_BYTES
):
    tokenizer = make_tokenizer(folder)
    origin = DataOrigin(tokenizer, corpus="made")
    with ShardWriter(
        folder / split / source,
        origin,
        shard_tokens=shard_tokens,
        has_pairs=pairs is not None,
        block_bytes=block_bytes,
    ) as writer:
        for number, text in enumerate(texts):
            writer.add(tokenizer.encode(text), len(text.encode()), f"made/{number}.txt")
        for pair in pairs or ():
            writer.add_pair(pair)
        writer.commit()
    return tokenizer
