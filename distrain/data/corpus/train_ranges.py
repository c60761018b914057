"""Layers 1 and 2 on the fly: the train documents of one range of a plan, tokenized into shards."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from distrain.config.data import DataConfig
from distrain.data.corpus.encode import inputs_of
from distrain.data.corpus.plan import InputPlan, load_plan
from distrain.data.corpus.tokenize_range import tokenize_range
from distrain.data.curate.clean import Cleaner
from distrain.data.shards.writer import DataOrigin, ShardWriter
from distrain.data.tokenizer.encoders.choose import open_encoder
from distrain.data.tokenizer.encoders.encoder import Encoder
from distrain.data.tokenizer.encoders.report import EngineReport
from distrain.data.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class MakeTrainRange:
    """Makes the shards of ranges of one source; a ``samples.range_shards.MakeRange``.

    Args:
        config: The ``data`` section of the prepare stage.
        source: Name of the source.
        plan: The stage's ``plan.json``; loaded where it is needed, as it may be large.
        tokenizer: The stage's.
        encoder: Engine and version that encoded the other splits: ``gigatoken 0.10.0``.
        corpus: See ``Manifest.corpus``.
        root: Where the ranges go.
    """

    config: DataConfig
    source: str
    plan: Path
    tokenizer: Path
    encoder: str
    corpus: str
    root: Path

    def folder(self, number: int) -> Path:
        """Return where the range's shards are, or will be."""
        return self.root / self.source / f"{number:05d}" / "train" / self.source

    def title(self, number: int) -> str:
        """Name the range in messages."""
        return f"range {number} of source {self.source}"

    def __call__(self, number: int) -> None:
        """Read, clean, encode and write the range, whole or not at all."""
        planned = _load(self.plan).of_source(self.source)[number]
        tokenizer, encoder = _engine(self.tokenizer, self.encoder)
        cleaner = Cleaner(self.config.of_source(self.source))
        # The same function for every rank and restart: whoever makes the range makes the same
        # bytes.
        encoded, names, counts = tokenize_range(self.config, planned, cleaner, encoder)
        origin = DataOrigin(tokenizer, self.corpus, self.encoder, _load(self.plan).settings)
        with ShardWriter(
            self.folder(number), origin, shard_tokens=self.config.shard_tokens
        ) as writer:
            writer.begin_range(inputs_of(planned))
            writer.add_batch(encoded.ids, encoded.ends, counts.text_bytes["train"], names)
            writer.commit()


@lru_cache(maxsize=4)
def _load(path: Path) -> InputPlan:
    plan = load_plan(path)
    assert plan is not None, f"{path} is written before the stage is done"
    return plan


@lru_cache(maxsize=1)
def _engine(path: Path, name: str) -> tuple[Tokenizer, Encoder]:
    tokenizer = Tokenizer.load(path)
    engine, _, version = name.partition(" ")
    # What was checked is known from the prepare stage; here only name and version count.
    report = EngineReport(engine, version, version)
    # One thread: each rank makes ranges in a process of its own, beside the training.
    return tokenizer, open_encoder(report, tokenizer.content, threads=1)
