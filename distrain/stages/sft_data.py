"""Which pairs the fine-tuning of a line reads, and as what samples."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distrain.config.labels import PairChecksConfig
from distrain.config.recipe import SftStage
from distrain.data.corpus.labels import inspect_pairs
from distrain.data.pairs.reading import Pair, open_pairs, read_user_pairs
from distrain.data.samples.feed import OrderedStream
from distrain.data.samples.order import Order
from distrain.data.samples.rows import SftDataset
from distrain.data.samples.sft import sft_dataset, shuffle_prompts
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import DataError
from distrain.stages.context import StageContext, lineage_of, typed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairSamples:
    """The pairs of one split, ready to be encoded."""

    pairs: list[Pair]
    tokenizer: Tokenizer
    sequence_length: int
    seed: int

    def dataset(self) -> SftDataset:
        """Encode each pair as it is."""
        return sft_dataset(self.pairs, self.tokenizer, self.sequence_length)

    def stream(self) -> OrderedStream:
        """Put the encoded pairs in the order in which a run reads them."""
        dataset = self.dataset()
        content = hashlib.blake2b(digest_size=16)
        for inputs, targets in dataset.examples:
            content.update(inputs.tobytes())
            content.update(targets.tobytes())
        order = Order(self.seed, "pairs", max(1, len(dataset)))
        return OrderedStream(dataset, order, content.hexdigest())

    def shuffled(self) -> SftDataset:
        """Encode each answer after another pair's prompt."""
        pairs = shuffle_prompts(self.pairs, self.seed)
        return sft_dataset(pairs, self.tokenizer, self.sequence_length)


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


def find_pairs(context: StageContext, tokenizer: Tokenizer, split: str) -> PairSamples | None:
    """Find the pairs of ``split`` for the line of ``context``'s stage.

    Returns:
        ``None`` for the test split of a user's own file: it has none.

    Raises:
        PreflightError: The test split is asked for by another stage than ``evaluate``.
        DataError: The pairs are missing, damaged, or too few to measure anything.
    """
    lineage = lineage_of(context.recipe, context.name)
    stage = typed(context.recipe, lineage.sft, SftStage)
    if stage.data.path is not None:
        if split == "test":
            return None
        train, held_out = read_user_pairs(
            Path(stage.data.path).expanduser(), stage.data.validation_fraction
        )
        pairs = train if split == "train" else held_out
    else:
        folder = context.run.stage(str(lineage.prepare)).path
        pairs = open_pairs(folder, split, stage_kind=context.stage.kind)
    if split == "train":
        check_pairs(pairs, stage.data.checks)
    if len(pairs) < 2:
        raise DataError(
            f"pairs of the {split} split",
            f"{len(pairs)}",
            "at least 2",
            "Add documents with pairs, or raise the split's fraction.",
        )
    length = stage.training.sequence_length
    return PairSamples(pairs, tokenizer, length, context.recipe.seed)
