"""One range of the input -> the tokens of its documents, as a run reads it on the fly.

A pure function of the range, the settings and the tokenizer: the result depends on neither caller
nor time. Copies are found within the range only; there is no near-duplicate removal.
"""

from collections.abc import Iterator
from typing import cast

import numpy as np

from distrain.config.data import DataConfig
from distrain.data.corpus.cleaning import Tally, clean_range
from distrain.data.corpus.counts import Counts
from distrain.data.corpus.plan import PlannedRange
from distrain.data.curate.clean import Cleaner
from distrain.data.tokenizer.encoders.encoder import Encoded, Encoder, Ids

BATCH_BYTES = 4_000_000
"""Text encoded at once."""


def tokenize_range(
    config: DataConfig,
    planned: PlannedRange,
    cleaner: Cleaner,
    encoder: Encoder,
    split: str = "train",
) -> tuple[Encoded, list[str], Counts]:
    """Read, clean and encode the documents of one split in one range.

    Args:
        config: The ``data`` section of the prepare stage, with ``on_the_fly``.
        planned: From the stage's plan (``load_plan``).
        cleaner: ``Cleaner(config.of_source(planned.source))``.
        encoder: Of the stage's tokenizer.
        split: Documents of others are read and counted, and left.

    Returns:
        The ids without anything between documents; the names of the documents; what became of
        every document of the range: ``counts.text_bytes[split]`` are the bytes of these.

    Raises:
        DataError: A file changed since the plan was made, cannot be had, or the range alone has
            more broken documents than ``data.skip_budget``.
    """
    tally = Tally(config)
    ids: list[Ids] = [encoder.encode([""]).ids]  # nothing, of the type that ids have
    ends, paths = [np.zeros(0, np.int64)], []
    tokens = 0
    for texts, names in _batches(config, planned, cleaner, tally, split):
        encoded = encoder.encode(texts)
        ids.append(encoded.ids)
        # The engine counts from the beginning of each batch.
        ends.append(encoded.ends + tokens)
        paths += names
        tokens += len(encoded.ids)
    tally.counts.check()
    flat = cast(Ids, np.concatenate(ids))
    return Encoded(flat, np.concatenate(ends)), paths, tally.counts


def _batches(
    config: DataConfig, planned: PlannedRange, cleaner: Cleaner, tally: Tally, split: str
) -> Iterator[tuple[list[str], list[str]]]:
    texts: list[str] = []
    names: list[str] = []
    size = 0
    for document, _ in clean_range(config, planned, cleaner, tally):
        # Read all the same: which split a text is in is known only once it is cleaned.
        if document.split != split:
            continue
        texts.append(document.text)
        names.append(document.path)
        size += document.text_bytes
        if size >= BATCH_BYTES:
            yield texts, names
            texts, names, size = [], [], 0
    if texts:
        yield texts, names
