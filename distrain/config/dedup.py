"""Section of layer 2: which documents say what others say, and go."""

from typing import Annotated

from pydantic import Field

from distrain.config.section import Section


class MinHashConfig(Section):
    """Near-duplicates by MinHash sketches in bands; the defaults are those of FineWeb."""

    ngram: Annotated[int, Field(ge=1, le=64)] = 5
    """Lower-case words in one n-gram, without punctuation; documents are sets of these."""
    bands: Annotated[int, Field(ge=1, le=256)] = 14
    """Parts of a sketch; documents that agree in all of one are compared."""
    rows: Annotated[int, Field(ge=1, le=64)] = 8
    """Minima in a band. Two documents of Jaccard similarity s meet in some band with probability
    1 - (1 - s^rows)^bands: even odds at s = 0.68 for 14 x 8."""
    min_similarity: Annotated[float, Field(gt=0, le=1)] | None = None
    """Documents that meet must also have this similarity, as estimated from the whole sketch."""


class DecontaminateConfig(Section):
    """Drop train documents that repeat stretches of held-out ones.

    A document goes when it shares ``min_count`` n-grams and ``min_share`` of its n-grams.
    """

    ngram: Annotated[int, Field(ge=1, le=64)] = 13
    """Lower-case words in one n-gram, without punctuation (GPT-3, appendix C)."""
    min_count: Annotated[int, Field(ge=1)] = 1
    """Shared n-grams from which on a document goes."""
    min_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of a document's n-grams from which on it goes."""
    max_documents: Annotated[int, Field(ge=1)] | None = 10
    """An n-gram of more held-out documents than this is boilerplate, not a leak; null: none is."""
    held_out: bool = True
    """Compare with the validation and test splits."""
    texts: tuple[str, ...] = ()
    """Files of benchmark texts: ``.jsonl`` with a field ``text``, else one text a line."""


class DedupConfig(Section):
    """Layer 2 over the whole corpus: copies, near-copies, leaks into the train split."""

    exact: bool = True
    """Keep the first of documents whose normalized texts are equal."""
    minhash: MinHashConfig | None = None
    decontaminate: DecontaminateConfig | None = None
