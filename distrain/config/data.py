"""Sections of layers 1 and 2: where raw text comes from and how it becomes tokens."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from distrain.config.curation import CurationConfig
from distrain.config.dedup import DedupConfig
from distrain.config.labels import LabelsConfig
from distrain.config.section import Count, Section
from distrain.config.sources import Source, TextSource
from distrain.config.token_sources import TokenSource

SOURCE_KEYS = ("source", "sources")
"""The two ways to say what is read; a recipe uses exactly one."""
MAIN_SOURCE = "main"
"""Name of the source that a recipe gives as ``data.source``."""
SPLITS = ("train", "validation", "test")
"""Of the documents of every source. Only a stage of kind ``evaluate`` opens the last."""
SOURCE_NAME = r"[A-Za-z][A-Za-z0-9_-]*"


class DataConfig(Section):
    """Layers 1 and 2: collect, clean, split."""

    source: Source | None = None
    """What is read; its name is ``main``."""
    sources: dict[str, Source] | None = None
    """Several sources by name, to be mixed in training; of equal documents the first one stays."""
    min_characters: Annotated[int, Field(ge=0)] = 1
    """Shorter documents are dropped, and counted."""
    curation: CurationConfig = CurationConfig()
    dedup: DedupConfig = DedupConfig()
    labels: LabelsConfig | None = None
    """What labelled documents (``label_field`` of their source) have to be like."""
    quality: bool = False
    """Compute figures of each document's quality; they lie beside the shards, one value a
    document, and their distribution is in ``result.json``."""
    validation_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Share of documents, chosen by the document's hash, so never by their order."""
    test_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """As ``validation_fraction``, of the documents that only ``evaluate`` reads."""
    shard_tokens: Annotated[Count, Field(ge=1)] = 16_000_000
    """Tokens in one shard file, at most (a document is never cut)."""
    skip_budget: Annotated[int, Field(ge=0)] = 100
    """Broken files (unreadable, not text) tolerated before the stage refuses the corpus."""
    rejection_samples: Annotated[int, Field(ge=0)] = 20
    """Rejected documents shown in ``rejections.jsonl``, for each source and reason."""
    range_bytes: Annotated[Count, Field(ge=1)] = 64_000_000
    """Bytes of input (compressed, if it is) worked on at a time: the unit of parallel work and of
    restart. It decides where shards are cut."""
    workers: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Processes that work on ranges of the input; auto: one for each processor. The result does
    not depend on it."""
    on_the_fly: bool = False
    """Leave the train split as text: pretraining tokenizes each range when it needs it. Tokenizer,
    validation and test split are made in advance. A train document equal to another one is then
    found only within its range, and what is compared over the whole corpus
    (``dedup.minhash``, ``dedup.decontaminate``) is refused."""
    keep_cleaned: bool = False
    """Leave the cleaned documents (Parquet) in ``work/cleaned`` when the stage is done."""

    @model_validator(mode="after")
    def _sources_are_named(self) -> Self:
        given = [key for key in SOURCE_KEYS if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of {', '.join(SOURCE_KEYS)}; "
                f"found {' and '.join(given) or 'none of them'}"
            )
        if self.sources == {}:
            raise ValueError("sources is empty; name at least one source, such as web: {kind: ...}")
        for name in self.sources or ():
            if not re.fullmatch(SOURCE_NAME, name):
                raise ValueError(
                    f"'{name}' cannot name a source; use letters, digits, '_' and '-', with a "
                    "letter first"
                )
        return self

    @model_validator(mode="after")
    def _whole_corpus_is_not_on_the_fly(self) -> Self:
        for name in ("minhash", "decontaminate"):
            if self.on_the_fly and getattr(self.dedup, name) is not None:
                raise ValueError(
                    f"dedup.{name} compares documents of the whole corpus, and with on_the_fly "
                    "there is no time at which all are known; remove one of the two"
                )
        return self

    @property
    def named_sources(self) -> dict[str, Source]:
        """Every source by its name, in the order of the recipe."""
        if self.source is not None:
            return {MAIN_SOURCE: self.source}
        return dict(self.sources or {})

    @property
    def text_sources(self) -> dict[str, TextSource]:
        """Sources of documents, by name."""
        return {
            name: source
            for name, source in self.named_sources.items()
            if not isinstance(source, TokenSource)
        }

    @property
    def token_sources(self) -> dict[str, TokenSource]:
        """Sources that are tokens already, by name."""
        return {
            name: source
            for name, source in self.named_sources.items()
            if isinstance(source, TokenSource)
        }

    def form_of(self, name: str) -> str:
        """Return how a source is opened once it is prepared: a key of ``opened.FORMS``."""
        source = self.named_sources.get(name)
        # Of a source that the recipe names no longer, what is left is what prepare made of text.
        form = "text" if source is None else source.form
        return "on_the_fly" if self.on_the_fly and form == "text" else form

    def setting_of(self, name: str) -> str:
        """Return the setting that holds a source, such as ``data.sources.web``."""
        return "data.source" if self.source is not None else f"data.sources.{name}"

    def of_source(self, name: str) -> "DataConfig":
        """Return the settings for one source: its own curation, if it has one."""
        own = self.text_sources[name].curation
        return self if own is None else self.model_copy(update={"curation": own})

    @property
    def settings_of_sources(self) -> dict[str, Source]:
        """Every source by the setting that holds it."""
        return {self.setting_of(name): source for name, source in self.named_sources.items()}


EngineName = Literal["auto", "tokenizers", "gigatoken", "fastokens"]


class TokenizerConfig(Section):
    """Train a byte-level tokenizer on the train split, or take a ready ``tokenizer.json``."""

    model: Literal["bpe", "unigram"] = "bpe"
    """Fast engines know BPE only; unigram (arXiv 1804.10959) is encoded by ``tokenizers``."""
    split: Literal["gpt2", "gpt4"] = "gpt2"
    """The regular expression that cuts text into words, which no token crosses: ``gpt4`` cuts
    numbers into three digits at most and keeps line ends apart."""
    vocab_size: Annotated[Count, Field(ge=300)] = 4096
    """Includes the 256 bytes and the control tokens."""
    min_frequency: Annotated[int, Field(ge=1)] = 2
    """Rarer pairs are not merged; of no effect for ``unigram``."""
    train_bytes: Annotated[Count, Field(ge=1)] = 1_000_000_000
    """UTF-8 bytes of train text that it is trained on, at most; of a larger corpus, each range of
    the input gives its share."""
    path: str | None = None
    """A ready ``tokenizer.json``, or a model that has one: a folder, a GGUF file, one of a package,
    as ``model.from_pretrained`` may name it. Then nothing is trained."""
    engine: EngineName = "auto"
    """What encodes. ``auto``: the fastest that is installed and gives the ids of ``tokenizers`` on
    a sample of the corpus and on adversarial strings. An engine by name has to pass, or the stage
    ends."""


class PairsConfig(Section):
    """Instruction pairs (prompt -> answer) made beside the shards, for ``sft``."""

    kind: Literal["docstrings", "none"] = "none"
    """``docstrings``: signature and body of a documented Python function -> its docstring."""
    max_prompt_characters: Annotated[int, Field(ge=1)] = 1200
    """A pair with a longer prompt is left out."""
    min_answer_characters: Annotated[int, Field(ge=1)] = 20
    """A pair with a shorter answer is left out."""
    max_answer_characters: Annotated[int, Field(ge=1)] = 400
    """A pair with a longer answer is left out."""
