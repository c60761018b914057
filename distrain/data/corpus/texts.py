"""Kept train documents, for what learns from them or is tried on them: tokenizer and engine."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from distrain.data.corpus.cleaned import read_batches, read_keys
from distrain.data.corpus.clusters import Reason
from distrain.data.corpus.contamination import TRAIN, Mask


def train_texts(files: Sequence[Path], masks: Sequence[Mask], limit_bytes: int) -> Iterator[str]:
    """Yield texts of the train split, in order.

    Args:
        files: Cleaned documents of each range.
        masks: What of them is kept.
        limit_bytes: UTF-8 bytes, at most. Where there are more, each range gives from its
            beginning what is in proportion to its size, so that no source is left out.
    """
    sizes = [_train_bytes(file, mask) for file, mask in zip(files, masks, strict=True)]
    total = sum(sizes)
    for file, mask, size in zip(files, masks, sizes, strict=True):
        share = size if total <= limit_bytes else limit_bytes * size // total
        if size:
            yield from _up_to(file, mask, share)


def _train_bytes(file: Path, mask: Mask) -> int:
    keys = read_keys(file)
    return int(keys.text_bytes[(mask == Reason.KEPT) & (keys.splits == TRAIN)].sum())


def _up_to(file: Path, mask: Mask, limit_bytes: int) -> Iterator[str]:
    for batch in read_batches(file):
        kept = mask[batch.first : batch.first + len(batch.texts)] == Reason.KEPT
        for place in np.flatnonzero(kept & (batch.splits == TRAIN)):
            text = batch.texts[place]
            limit_bytes -= len(text.encode())
            # The first that does not fit ends the share: to look for shorter ones behind it would
            # prefer short texts.
            if limit_bytes < 0:
                return
            yield text
