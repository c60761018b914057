"""Ranges of made-up texts, tokenized in other processes: a module that is quick to import there."""

import time
from dataclasses import dataclass
from pathlib import Path

from distrain.config.data import DataConfig
from distrain.data.curate.clean import Cleaner, Rejected
from distrain.data.shards.writer import DataOrigin, ShardWriter
from distrain.data.sources.document import Document
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import DataError
from tests.distrain.data.made_corpus import make_texts


@dataclass(frozen=True)
class MakeTexts:
    """Makes the shards of a range of made-up texts, and leaves a line for each time it did."""

    root: Path
    delay_s: float = 0.0
    fails: int = -1

    def folder(self, number):
        return self.root / "ranges" / f"{number:05d}" / "train" / "web"

    def title(self, number):
        return f"range {number} of source web"

    def __call__(self, number):
        if number == self.fails:
            raise DataError(self.title(number), "a cut-off file", "a whole one", "Restore it.")
        tokenizer = Tokenizer.load(self.root / "tokenizer.json")
        origin = DataOrigin(tokenizer, "made")
        with ShardWriter(self.folder(number), origin, shard_tokens=300) as writer:
            time.sleep(self.delay_s)
            for text in texts_of(number):
                writer.add(tokenizer.encode(text), len(text))
            with (self.root / "made.txt").open("a") as lines:
                lines.write(f"{number}\n")
            writer.commit()


def texts_of(number):
    return [] if number == 3 else make_texts(6 + number, seed=number)


@dataclass(frozen=True)
class MakeFiltered:
    """Cleans and tokenizes a range: documents below the recipe's length are dropped."""

    root: Path

    def folder(self, number):
        return self.root / "ranges" / f"{number:05d}" / "train" / "web"

    def title(self, number):
        return f"range {number}"

    def __call__(self, number):
        source = {"kind": "files", "paths": ["unused"]}
        cleaner = Cleaner(DataConfig.model_validate({"source": source, "min_characters": 90}))
        tokenizer = Tokenizer.load(self.root / "tokenizer.json")
        origin = DataOrigin(tokenizer, "made")
        with ShardWriter(self.folder(number), origin, shard_tokens=700) as writer:
            for place, text in enumerate(make_texts(25, seed=1000 + number)):
                cleaned = cleaner.clean(Document(text, f"{number}:{place}"))
                if not isinstance(cleaned, Rejected):
                    writer.add(tokenizer.encode(cleaned.text), len(cleaned.text))
            writer.commit()
