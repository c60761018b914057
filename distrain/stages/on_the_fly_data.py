"""Layers 1 to 3 of ``pretrain`` over sources that are tokenized while they are read."""

import hashlib

from distrain.config.data import DataConfig
from distrain.config.loading import PretrainDataConfig
from distrain.data.corpus.plan import InputPlan, load_plan
from distrain.data.corpus.train_ranges import MakeTrainRange
from distrain.data.samples.on_the_fly import OnTheFlyStream, range_order
from distrain.data.samples.order import Order
from distrain.data.samples.range_shards import Patience, RangeShards
from distrain.data.shards.manifest import check_split
from distrain.errors import DataError
from distrain.runs.folder import StageFolder


def load_prepared_plan(prepare: StageFolder) -> InputPlan:
    """Read the ranges that the prepare stage has found.

    Raises:
        DataError: They are not there.
    """
    plan = load_plan(prepare.plan)
    if plan is None:
        raise DataError(
            str(prepare.plan),
            "no plan of input ranges",
            "the finished prepare stage of a recipe with data.on_the_fly",
            "Run the prepare stage first.",
        )
    return plan


def open_on_the_fly(
    data: DataConfig,
    config: PretrainDataConfig,
    prepare: StageFolder,
    source: str,
    *,
    length: int,
    seed: int,
) -> OnTheFlyStream:
    """Open one source of the prepare stage, in sequences of ``length`` tokens.

    Raises:
        DataError: The plan or the validation split of the stage is missing.
    """
    plan = load_prepared_plan(prepare)
    # The validation split was encoded by the engine whose ids were checked, for this tokenizer.
    manifest = check_split(prepare.path, "validation", source, verify=False)
    make = MakeTrainRange(
        config=data,
        source=source,
        plan=prepare.plan,
        tokenizer=prepare.tokenizer,
        encoder=manifest.encoder,
        corpus=manifest.corpus,
        root=prepare.ranges,
    )
    ranges = RangeShards(
        make,
        range_order(seed, source, len(plan.of_source(source))),
        patience=Patience(config.cache.stall_warning, config.cache.stall_deadline),
    )
    content = hashlib.sha256(prepare.plan.read_bytes())
    content.update(f"{manifest.tokenizer} {manifest.corpus}".encode())
    return OnTheFlyStream(
        ranges,
        Order(seed, source, 1, config.order.block_samples, config.order.window_blocks),
        length,
        is_packed=config.packing == "best_fit",
        content=content.hexdigest(),
        vocab_size=manifest.vocab_size,
    )
