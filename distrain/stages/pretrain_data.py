"""Layers 2 and 3 of ``pretrain``: the prepared sources, opened."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distrain.data.opened import FORMS
from distrain.data.opened.form import PreparedData, SampleSettings
from distrain.data.samples.datasets import Dataset, PretrainDataset
from distrain.data.samples.source import OpenedSource, SourceTokens
from distrain.data.shards.manifest import list_sources


@dataclass(frozen=True)
class PretrainData:
    """What a pretraining stage reads, by the name of the source."""

    train: Mapping[str, OpenedSource]
    validation: Mapping[str, Dataset]

    def token_counts(self) -> NDArray[np.int64]:
        """Count how often each id occurs in the train split, shape (V,).

        Of sources that are tokenized on the fly, in what is made so far.
        """
        counts = [source.token_counts() for source in self.train.values()]
        total: NDArray[np.int64] = np.sum([part for part in counts if part is not None], axis=0)
        return total


def open_pretrain_data(prepared: PreparedData, settings: SampleSettings) -> PretrainData:
    """Open all sources of a prepare stage.

    Raises:
        DataError: A split is missing or damaged.
    """
    held_out = open_held_out(prepared, "validation")
    return PretrainData(
        {name: open_source(prepared, name, settings) for name in prepared.data.named_sources},
        {name: PretrainDataset(found.tokens, settings.length) for name, found in held_out.items()},
    )


def open_source(prepared: PreparedData, name: str, settings: SampleSettings) -> OpenedSource:
    """Open what is trained on of one source.

    Raises:
        DataError: It is missing, damaged, or without a sample.
    """
    return FORMS[prepared.data.form_of(name)].samples(prepared, name, settings)


def open_held_out(prepared: PreparedData, split: str) -> dict[str, SourceTokens]:
    """Open the validation or test split of all sources.

    Raises:
        PreflightError: The test split is asked for by another stage than ``evaluate``.
        DataError: One is missing or damaged.
    """
    named = prepared.data.named_sources
    # What the prepare stage wrote comes first, in the order of its folders: sums of losses depend,
    # in their last bits, on the order in which samples are added up.
    written = list_sources(prepared.folder.path, split)
    names = [*written, *(name for name in named if name not in written)]
    return {
        name: FORMS[prepared.data.form_of(name)].tokens(prepared, name, split) for name in names
    }
