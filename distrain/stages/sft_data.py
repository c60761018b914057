"""Select and encode the pairs of an sft stage."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrain.config.labels import PairChecksConfig
from distrain.config.recipe import SftStage
from distrain.data.chats.pairs_file import Pair, open_pairs, read_user_pairs
from distrain.data.corpus.labels import inspect_pairs
from distrain.data.samples.datasets import SftDataset
from distrain.data.samples.feed import OrderedStream
from distrain.data.samples.order import Order
from distrain.data.samples.sft import (
    EncodedPair,
    Lengths,
    encode_pairs,
    measure_lengths,
    sft_dataset,
    shuffle_prompts,
)
from distrain.data.tokenizer.layouts import ChatLayout
from distrain.errors import DataError
from distrain.stages.context import StageContext, typed

log = logging.getLogger(__name__)

MAX_DROPPED = 0.001
"""Pairs, of those to train and to validate with, that ``data.truncation: refuse`` leaves out."""
SHOWN = 5


@dataclass(frozen=True)
class PairSamples:
    """The pairs of one split, ready to be laid out.

    Args:
        encoded: Pairs of which samples are made.
        lengths: Of all pairs of the split.
        dropped: Where the pairs come from that were left out, because their answer does not fit.
    """

    encoded: list[EncodedPair]
    lengths: Lengths
    dropped: list[str]
    pad_id: int
    sequence_length: int
    seed: int

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.encoded)

    def dataset(self) -> SftDataset:
        """Lay out each pair as it is."""
        return sft_dataset(self.encoded, self.pad_id, self.sequence_length)

    def stream(self) -> OrderedStream:
        """Put the samples in the order in which a run reads them."""
        dataset = self.dataset()
        content = hashlib.blake2b(digest_size=16)
        for inputs, targets in dataset.examples:
            content.update(inputs.tobytes())
            content.update(targets.tobytes())
        order = Order(self.seed, "pairs", max(1, len(dataset)))
        return OrderedStream(dataset, order, content.hexdigest())

    def shuffled(self) -> SftDataset:
        """Lay out each answer after another pair's prompt."""
        encoded = shuffle_prompts(self.encoded, self.seed)
        return sft_dataset(encoded, self.pad_id, self.sequence_length)


def check_pairs(pairs: Sequence[Pair], config: PairChecksConfig) -> None:
    """Compare the pairs with each other; what is odd but allowed is logged.

    Raises:
        DataError: More of them are empty or contradict each other than the recipe allows.
    """
    report = inspect_pairs(pairs)
    report.check(config, "data.checks")
    if report.repeated:
        log.warning("%d of %d pairs repeat an earlier one", report.repeated, report.pairs)
    if report.conflicting:
        log.warning(
            "%d of %d pairs have a prompt with several answers, such as %s",
            report.conflicting,
            report.pairs,
            report.conflicts[0],
        )


def find_training_pairs(
    context: StageContext, layout: ChatLayout
) -> tuple[PairSamples, PairSamples]:
    """Find the train and the validation pairs of an ``sft`` stage.

    Raises:
        DataError: They are missing, damaged, too few to measure anything, or faulty, or too many
            answers do not fit into a sample.
    """
    stage = _sft_stage(context)
    found = {split: _read_pairs(context, stage, split) for split in ("train", "validation")}
    check_pairs(found["train"] or [], stage.data.checks)
    splits = {
        split: _samples(context, stage, pairs or [], layout) for split, pairs in found.items()
    }
    check_lengths(splits, stage)
    for split, samples in splits.items():
        _require_two(samples, split)
        _tell_lengths(samples, split)
    return splits["train"], splits["validation"]


def find_test_pairs(context: StageContext, layout: ChatLayout) -> PairSamples | None:
    """Find the test pairs for the line of an ``evaluate`` stage, by the rules of its ``sft`` stage.

    Returns:
        ``None`` for a user's own file: it has no test split.

    Raises:
        DataError: They are missing, damaged or too few to measure anything.
    """
    stage = _sft_stage(context)
    pairs = _read_pairs(context, stage, "test")
    if pairs is None:
        return None
    samples = _samples(context, stage, pairs, layout)
    _require_two(samples, "test")
    _tell_lengths(samples, "test")
    return samples


def check_lengths(splits: Mapping[str, PairSamples], stage: SftStage) -> None:
    """Refuse pairs of which too many would lose the end of their answer.

    Raises:
        DataError: So many are left out that the recipe should say what is meant.
    """
    dropped = [path for samples in splits.values() for path in samples.dropped]
    total = sum(samples.lengths.pairs for samples in splits.values())
    if len(dropped) <= MAX_DROPPED * total:
        return
    longest = max(samples.lengths.longest for samples in splits.values())
    counts = ", ".join(f"{len(samples.dropped)} to {split}" for split, samples in splits.items())
    raise DataError(
        "data.truncation: refuse",
        f"{len(dropped):,} of {total:,} pairs ({counts}) whose answer does not fit into "
        f"training.sequence_length {stage.training.sequence_length}: {_shown(dropped)}",
        f"at most {int(MAX_DROPPED * total):,} (0.1 %), which are left out",
        f"Raise training.sequence_length (the longest answer needs {longest}), shorten the "
        "answers, or set data.truncation to cut: each then loses its end.",
    )


def lengths_record(splits: Mapping[str, PairSamples], stage: SftStage) -> dict[str, Any]:
    """Say what did not fit, for ``data.json`` and ``result.json``."""
    return {
        "truncation": stage.data.truncation,
        "long_answers": {name: len(found.lengths.long_answers) for name, found in splits.items()},
        "cut_prompts": {name: found.lengths.cut_prompts for name, found in splits.items()},
        "dropped_pairs": [path for found in splits.values() for path in found.dropped],
    }


def _sft_stage(context: StageContext) -> SftStage:
    return typed(context.recipe, context.lineage.trained[-1].stage, SftStage)


def _read_pairs(context: StageContext, stage: SftStage, split: str) -> list[Pair] | None:
    if stage.data.path is None:
        folder = context.run.stage(str(context.lineage.data)).path
        return open_pairs(folder, split, stage_kind=context.stage.kind)
    if split == "test":
        return None
    path = Path(stage.data.path).expanduser()
    train, held_out = read_user_pairs(path, stage.data.validation_fraction)
    return train if split == "train" else held_out


def _samples(
    context: StageContext,
    stage: SftStage,
    pairs: list[Pair],
    layout: ChatLayout,
) -> PairSamples:
    """Encode pairs; of those whose answer does not fit, leave out what the recipe does not cut."""
    length = stage.training.sequence_length
    encoded = encode_pairs(pairs, layout)
    lengths = measure_lengths(encoded, length)
    left_out = set(lengths.long_answers) if stage.data.truncation == "refuse" else set()
    return PairSamples(
        encoded=[pair for number, pair in enumerate(encoded) if number not in left_out],
        lengths=lengths,
        dropped=[pairs[number].path for number in sorted(left_out)],
        pad_id=layout.pad_id,
        sequence_length=length,
        seed=context.recipe.seed,
    )


def _require_two(samples: PairSamples, split: str) -> None:
    if len(samples) >= 2:
        return
    too_long = f", and {len(samples.dropped)} too long" if samples.dropped else ""
    raise DataError(
        f"pairs of the {split} split",
        f"{len(samples)}{too_long}",
        "at least 2",
        "Add documents with pairs, or raise the split's fraction.",
    )


def _tell_lengths(samples: PairSamples, split: str) -> None:
    """Log what does not fit: on one rank, for all read the same."""
    lengths = samples.lengths
    if samples.dropped:
        log.info(
            "%d of %d %s pairs are left out, for their answer does not fit: %s",
            len(samples.dropped),
            lengths.pairs,
            split,
            _shown(samples.dropped),
        )
    elif lengths.long_answers:
        log.info(
            "%d of %d %s answers do not fit and lose their end",
            len(lengths.long_answers),
            lengths.pairs,
            split,
        )
    if lengths.cut_prompts:
        log.info(
            "%d of %d %s prompts do not fit beside their answer and lose their beginning",
            lengths.cut_prompts,
            lengths.pairs,
            split,
        )


def _shown(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more
