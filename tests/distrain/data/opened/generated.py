"""A form of source that the product does not have: documents that a formula makes, as asked for.

All that a form needs is here: its section of the recipe, its tokens, its samples in their order.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from distrain.config.section import Section
from distrain.data.opened.form import PreparedData, SampleSettings
from distrain.data.samples.datasets import DocumentDataset, PretrainDataset
from distrain.data.samples.order import Ints, Order
from distrain.data.samples.rows import RowBuffer
from distrain.data.samples.source import OpenedSource, SourceTokens, Visits
from distrain.data.shards.reader import ShardedTokens

NUMBER = {"train": 0, "validation": 1, "test": 2}


class Formula(Section):
    """Its section of a recipe."""

    form: ClassVar[str] = "generated"
    kind: Literal["generated"] = "generated"
    documents: int = 40
    document_tokens: int = 30
    vocab_size: int = 61
    factor: int = 7


class FormulaShard:
    """Token i of a split; nothing is kept, and a document ends every ``document_tokens``."""

    def __init__(self, section: Formula, split: str) -> None:
        self.section = section
        self.first = NUMBER[split] * 1_000_003
        self.num_documents = section.documents
        self.num_tokens = section.documents * section.document_tokens
        self.ends = np.arange(1, section.documents + 1) * section.document_tokens

    def tokens(self, start: int, stop: int) -> Ints:
        places = np.arange(start, min(stop, self.num_tokens)) + self.first
        return places * places * self.section.factor % self.section.vocab_size


@dataclass(frozen=True)
class GeneratedSource(OpenedSource):
    """Samples of a formula, in a keyed order. Nobody counts them: they would go on for ever."""

    dataset: DocumentDataset
    order: Order
    content: str
    sequence_length: int
    num_samples: None = None

    @property
    def fingerprint(self) -> str:
        return f"{self.content} {self.order}"

    def fill(self, buffer: RowBuffer, rows: Ints, n: Ints) -> None:
        self.dataset.fill(buffer, rows, self.order.visit(n)[1])

    def reach(self, n: int) -> tuple[DocumentDataset, Visits]:
        return self.dataset, self.order


class Generated:
    """The form."""

    keeps_names = False

    def tokens(self, prepared: PreparedData, name: str, split: str) -> SourceTokens:
        section: object = prepared.data.named_sources[name]
        assert isinstance(section, Formula)
        shards = ShardedTokens([FormulaShard(section, split)], eos_id=None)
        return SourceTokens(shards, section.model_dump_json())

    def samples(self, prepared: PreparedData, name: str, settings: SampleSettings) -> OpenedSource:
        source = self.tokens(prepared, name, "train")
        dataset = PretrainDataset(source.tokens, settings.length)
        order = Order(settings.seed, name, len(dataset))
        return GeneratedSource(dataset, order, source.digest, settings.length)
