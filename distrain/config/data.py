"""Sections of layers 1 and 2: where raw text comes from and how it becomes tokens."""

from typing import Annotated, Literal

from pydantic import Field

from distrain.config.curation import CurationConfig
from distrain.config.section import Count, Section
from distrain.config.sources import Source


class DataConfig(Section):
    """Layers 1 and 2: collect, clean, split."""

    source: Source
    min_characters: Annotated[int, Field(ge=0)] = 1
    """Shorter documents are dropped, and counted."""
    curation: CurationConfig = CurationConfig()
    validation_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Share of documents, chosen by the document's hash, so never by their order."""
    test_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    shard_tokens: Annotated[Count, Field(ge=1)] = 16_000_000
    """Tokens in one shard file, at most (a document is never cut)."""
    skip_budget: Annotated[int, Field(ge=0)] = 100
    """Broken files (unreadable, not text) tolerated before the stage refuses the corpus."""


class TokenizerConfig(Section):
    """Train a byte-level BPE on the train split, or take a ready ``tokenizer.json``."""

    vocab_size: Annotated[Count, Field(ge=300)] = 4096
    """Includes the 256 bytes and the control tokens."""
    min_frequency: Annotated[int, Field(ge=1)] = 2
    path: str | None = None
    """A ready ``tokenizer.json``; then nothing is trained."""


class PairsConfig(Section):
    """Instruction pairs (prompt -> answer) made beside the shards, for ``sft``."""

    kind: Literal["docstrings", "none"] = "none"
    """``docstrings``: signature and body of a documented Python function -> its docstring."""
    max_prompt_characters: Annotated[int, Field(ge=1)] = 1200
    min_answer_characters: Annotated[int, Field(ge=1)] = 20
    max_answer_characters: Annotated[int, Field(ge=1)] = 400
