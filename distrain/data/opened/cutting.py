"""Samples of ready tokens: cut, packed and put in order as a pretraining stage says."""

from distrain.config.loading import PretrainDataConfig
from distrain.data.opened.form import SampleSettings
from distrain.data.samples.datasets import DocumentDataset, PackedDataset, PretrainDataset
from distrain.data.samples.feed import DocumentStream
from distrain.data.samples.order import Order
from distrain.data.samples.pack_files import ensure_packs
from distrain.data.samples.packing import PackedIndex
from distrain.data.samples.source import SourceTokens
from distrain.errors import DataError

PACKS = "packs"
"""Folder in the stage's own one: plans belong to a sequence length, not to the shards."""


def cut_samples(
    config: PretrainDataConfig, source: SourceTokens, name: str, settings: SampleSettings
) -> DocumentStream:
    """Put the samples of one source in order.

    Raises:
        DataError: There is none.
    """
    length = settings.length
    dataset: DocumentDataset
    if config.packing == "best_fit":
        packs = settings.folder / PACKS / name / str(length)
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
    # Downloaded blocks hold neighbours: a permutation of single samples would fetch each block
    # again for every sample in it.
    in_blocks = kind == "blocks" or (kind == "auto" and source.cache is not None)
    block = config.order.block_samples if in_blocks else 0
    order = Order(settings.seed, name, len(dataset), block, config.order.window_blocks)
    return DocumentStream(dataset, order, source)
