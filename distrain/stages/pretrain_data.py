"""Layers 2 and 3 of ``pretrain``: the prepared sources, as streams of samples."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distrain.config.loading import PretrainDataConfig
from distrain.config.recipe import PretrainStage
from distrain.data.feed import OrderedStream, Stream
from distrain.data.manifest import list_sources
from distrain.data.order import Order
from distrain.data.pack_files import ensure_packs
from distrain.data.packing import PackedIndex
from distrain.data.samples import Dataset, JoinedDataset, PackedDataset, PretrainDataset
from distrain.data.shards import Split, open_split

PACKS = "packs"
"""Folder in the stage's own one: plans belong to a sequence length, not to the shards."""


@dataclass(frozen=True)
class PretrainData:
    """What a pretraining stage reads.

    Args:
        token_counts: How often each id occurs in the train split of all sources, shape (V,).
    """

    train: Mapping[str, Stream]
    validation: Dataset
    token_counts: NDArray[np.int64]


def open_pretrain_data(
    stage: PretrainStage, prepare: Path, folder: Path, seed: int
) -> PretrainData:
    """Open all sources of the prepare stage in ``prepare``; ``folder`` is the stage's own.

    Raises:
        DataError: A split is missing or damaged.
    """
    length = stage.training.sequence_length
    splits = {name: _open(prepare, "train", name) for name in list_sources(prepare, "train")}
    measured = [
        PretrainDataset(_open(prepare, "validation", name), length)
        for name in list_sources(prepare, "validation")
    ]
    train = {
        name: open_stream(stage.data, split, name, folder=folder, length=length, seed=seed)
        for name, split in splits.items()
    }
    counts = sum((split.token_counts for split in splits.values()), np.int64(0))
    return PretrainData(train, JoinedDataset(measured), np.asarray(counts))


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
