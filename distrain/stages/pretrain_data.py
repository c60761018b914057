"""Layers 2 and 3 of ``pretrain``: the prepared sources, as streams of samples."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distrain.config.data import DataConfig
from distrain.config.loading import PretrainDataConfig
from distrain.config.recipe import PretrainStage
from distrain.config.run_folder import StageFolder
from distrain.data.feed import OrderedStream, Stream
from distrain.data.manifest import list_sources
from distrain.data.on_the_fly import OnTheFlyStream
from distrain.data.order import Order
from distrain.data.pack_files import ensure_packs
from distrain.data.packing import PackedIndex
from distrain.data.samples import Dataset, JoinedDataset, PackedDataset, PretrainDataset
from distrain.data.shards import Split, open_split
from distrain.stages.on_the_fly_data import open_on_the_fly

PACKS = "packs"
"""Folder in the stage's own one: plans belong to a sequence length, not to the shards."""


@dataclass(frozen=True)
class PretrainData:
    """What a pretraining stage reads.

    Args:
        splits: Of the sources that are ready.
    """

    train: Mapping[str, Stream]
    validation: Dataset
    splits: Mapping[str, Split]

    def token_counts(self) -> NDArray[np.int64]:
        """Count how often each id occurs in the train split, shape (V,).

        Of sources that are tokenized on the fly, in what this rank has asked for so far.
        """
        counts = [split.token_counts for split in self.splits.values()]
        counts += [
            stream.token_counts
            for stream in self.train.values()
            if isinstance(stream, OnTheFlyStream)
        ]
        total: NDArray[np.int64] = np.sum(counts, axis=0)
        return total

    def close(self) -> None:
        """Stop tokenizing ahead."""
        for stream in self.train.values():
            if isinstance(stream, OnTheFlyStream):
                stream.close()


def open_pretrain_data(
    stage: PretrainStage, data: DataConfig, prepare: StageFolder, folder: Path, seed: int
) -> PretrainData:
    """Open all sources of a prepare stage.

    Args:
        stage: The pretraining stage.
        data: The ``data`` section of the prepare stage.
        prepare: Folder of the prepare stage.
        folder: Of the pretraining stage.
        seed: The recipe's.

    Raises:
        DataError: A split is missing or damaged.
    """
    length = stage.training.sequence_length
    measured = [
        PretrainDataset(_open(prepare.path, "validation", name), length)
        for name in list_sources(prepare.path, "validation")
    ]
    splits: dict[str, Split] = {}
    train: dict[str, Stream] = {}
    for name in data.named_sources:
        if data.on_the_fly:
            train[name] = open_on_the_fly(data, stage.data, prepare, name, length=length, seed=seed)
        else:
            splits[name] = _open(prepare.path, "train", name)
            train[name] = open_stream(
                stage.data, splits[name], name, folder=folder, length=length, seed=seed
            )
    return PretrainData(train, JoinedDataset(measured), splits)


def open_stream(
    config: PretrainDataConfig, split: Split, name: str, *, folder: Path, length: int, seed: int
) -> OrderedStream:
    """Put the samples of one source in order."""
    dataset: Dataset
    if config.packing == "best_fit":
        plans = ensure_packs(split, folder / PACKS / name / str(length), length)
        dataset = PackedDataset(split, PackedIndex(plans), length)
    else:
        dataset = PretrainDataset(split, length)
    block = config.order.block_samples if config.order.kind == "blocks" else 0
    order = Order(seed, name, len(dataset), block, config.order.window_blocks)
    return OrderedStream(dataset, order, split.manifest.digest)


def _open(prepare: Path, split: str, source: str) -> Split:
    return open_split(prepare, split, source, stage_kind="pretrain")
