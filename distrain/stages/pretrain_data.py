"""Layers 2 and 3 of ``pretrain``: the prepared sources, as streams of samples."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distrain.config.data import DataConfig
from distrain.config.loading import PretrainDataConfig
from distrain.config.recipe import PretrainStage
from distrain.data.samples.datasets import Dataset, PackedDataset, PretrainDataset
from distrain.data.samples.feed import OrderedStream, Stream
from distrain.data.samples.on_the_fly import OnTheFlyStream
from distrain.data.samples.order import Order
from distrain.data.samples.pack_files import ensure_packs
from distrain.data.samples.packing import PackedIndex
from distrain.data.samples.remote_stream import RemoteStream
from distrain.data.shards.manifest import list_sources
from distrain.data.shards.reader import Split, open_split
from distrain.errors import DataError
from distrain.runs.folder import StageFolder
from distrain.stages.on_the_fly_data import open_on_the_fly
from distrain.stages.ready_tokens import ReadySources, SourceTokens

PACKS = "packs"
"""Folder in the stage's own one: plans belong to a sequence length, not to the shards."""


@dataclass(frozen=True)
class PretrainData:
    """What a pretraining stage reads.

    Args:
        splits: Of the sources that ``prepare`` tokenized.
        ready: Sources that were tokens already.
    """

    train: Mapping[str, Stream]
    validation: Mapping[str, Dataset]
    splits: Mapping[str, Split]
    ready: Mapping[str, SourceTokens]

    def token_counts(self) -> NDArray[np.int64]:
        """Count how often each id occurs in the train split, shape (V,).

        Of sources that are tokenized on the fly, in what is made so far.
        """
        counts = [split.token_counts for split in self.splits.values()]
        counts += [source.token_counts() for source in self.ready.values()]
        counts += [
            stream.token_counts
            for stream in self.train.values()
            if isinstance(stream, OnTheFlyStream)
        ]
        total: NDArray[np.int64] = np.sum(counts, axis=0)
        return total


def open_pretrain_data(
    stage: PretrainStage,
    data: DataConfig,
    prepare: StageFolder,
    folder: Path,
    seed: int,
    *,
    local_ranks: int = 1,
) -> PretrainData:
    """Open all sources of a prepare stage.

    Args:
        stage: The pretraining stage.
        data: The ``data`` section of the prepare stage.
        prepare: Folder of the prepare stage.
        folder: Of the pretraining stage.
        seed: The recipe's.
        local_ranks: Processes of this node that read; they share its cache.

    Raises:
        DataError: A split is missing or damaged.
    """
    length = stage.training.sequence_length
    sources = ReadySources(data, prepare, stage.data.cache, share=local_ranks)
    measured: dict[str, Dataset] = {
        name: PretrainDataset(_open(prepare.path, "validation", name), length)
        for name in list_sources(prepare.path, "validation")
    }
    for name in sources.sources:
        tokens = sources.open(name, "validation", stage_kind="pretrain").tokens
        measured[name] = PretrainDataset(tokens, length)
    splits: dict[str, Split] = {}
    ready: dict[str, SourceTokens] = {}
    train: dict[str, Stream] = {}
    for name in data.named_sources:
        if name in sources.sources:
            ready[name] = sources.open(name, "train", stage_kind="pretrain")
            train[name] = open_stream(
                stage.data, ready[name], name, folder=folder, length=length, seed=seed
            )
        elif data.on_the_fly:
            train[name] = open_on_the_fly(data, stage.data, prepare, name, length=length, seed=seed)
        else:
            splits[name] = _open(prepare.path, "train", name)
            train[name] = open_stream(
                stage.data, splits[name], name, folder=folder, length=length, seed=seed
            )
    return PretrainData(train, measured, splits, ready)


def open_stream(
    config: PretrainDataConfig,
    split: Split | SourceTokens,
    name: str,
    *,
    folder: Path,
    length: int,
    seed: int,
) -> OrderedStream:
    """Put the samples of one source in order.

    Raises:
        DataError: There is none.
    """
    source = SourceTokens.of_split(split) if isinstance(split, Split) else split
    dataset: PackedDataset | PretrainDataset
    if config.packing == "best_fit":
        packs = folder / PACKS / name / str(length)
        plans = ensure_packs(source.tokens, packs, length, digests=source.ends_digests())
        dataset = PackedDataset(source.tokens, PackedIndex(plans), length)
    else:
        dataset = PretrainDataset(source.tokens, length)
    if not len(dataset):
        raise DataError(
            f"train split of source '{name}'",
            f"{source.tokens.num_tokens} tokens, less than one sample of {length}",
            "at least one sample",
            "Add documents, shorten training.sequence_length, or leave the source out.",
        )
    kind = config.order.kind
    in_blocks = kind == "blocks" or (kind == "auto" and source.cache is not None)
    block = config.order.block_samples if in_blocks else 0
    order = Order(seed, name, len(dataset), block, config.order.window_blocks)
    if source.cache is not None:
        return RemoteStream(dataset, order, source.digest, source.cache)
    return OrderedStream(dataset, order, source.digest)


def _open(prepare: Path, split: str, source: str) -> Split:
    return open_split(prepare, split, source, stage_kind="pretrain")
