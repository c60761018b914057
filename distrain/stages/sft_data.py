"""Select and encode the examples of an sft stage."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from distrain.config.labels import PairChecksConfig
from distrain.config.recipe import SftStage
from distrain.data.chats.pairs_file import Pair, open_pairs, read_user_pairs
from distrain.data.corpus.labels import inspect_pairs
from distrain.data.samples.sft import encode_pairs
from distrain.data.tokenizer.layouts import ChatLayout
from distrain.errors import DataError
from distrain.runs.folder import StageFolder
from distrain.runs.records import read_json
from distrain.stages.context import StageContext, typed
from distrain.stages.sft_samples import ExampleSamples, RowForm

log = logging.getLogger(__name__)

PAIRS = "pairs"
"""Name of a source that has no other."""
MAX_DROPPED = 0.001
"""Examples, of those to train and to validate with, that ``data.truncation: refuse`` leaves out."""
SHOWN = 5
NAMED = 100
"""Of the examples that are left out, in ``data.json``; ``rejections.jsonl`` has more of them."""


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
) -> tuple[ExampleSamples, ExampleSamples]:
    """Find the train and the validation examples of an ``sft`` stage.

    Raises:
        DataError: They are missing, damaged, too few to measure anything, or faulty, or too many
            answers do not fit into a sample.
    """
    stage = sft_stage_of(context)
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


def find_test_pairs(context: StageContext, layout: ChatLayout) -> ExampleSamples | None:
    """Find the test examples for the line of an ``evaluate`` stage, as its ``sft`` stage says.

    Returns:
        ``None`` for a user's own file: it has no test split.

    Raises:
        DataError: They are missing, damaged or too few to measure anything.
    """
    stage = sft_stage_of(context)
    pairs = _read_pairs(context, stage, "test")
    if pairs is None:
        return None
    samples = _samples(context, stage, pairs, layout)
    _require_two(samples, "test")
    _tell_lengths(samples, "test")
    return samples


def check_lengths(splits: Mapping[str, ExampleSamples], stage: SftStage) -> None:
    """Refuse examples of which too many would lose what is trained on.

    Raises:
        DataError: So many are left out that the recipe should say what is meant.
    """
    if stage.data.truncation != "refuse":
        return
    dropped = _paths(splits)
    total = sum(samples.lengths.examples for samples in splits.values())
    if len(dropped) <= MAX_DROPPED * total:
        return
    longest = max(samples.lengths.longest for samples in splits.values())
    counts = ", ".join(f"{len(samples.left_out)} to {split}" for split, samples in splits.items())
    raise DataError(
        "data.truncation: refuse",
        f"{len(dropped):,} of {total:,} pairs ({counts}) whose answer does not fit into "
        f"training.sequence_length {stage.training.sequence_length}: {_shown(dropped)}",
        f"at most {int(MAX_DROPPED * total):,} (0.1 %), which are left out",
        f"Raise training.sequence_length (the longest answer needs {longest}), shorten the "
        "answers, or set data.truncation to cut (each then loses its end), cut_left (what was said "
        "first goes) or drop (they are left out).",
    )


def lengths_record(splits: Mapping[str, ExampleSamples], stage: SftStage) -> dict[str, Any]:
    """Say what did not fit, for ``data.json`` and ``result.json``."""
    lengths = {name: found.lengths for name, found in splits.items()}
    return {
        "truncation": stage.data.truncation,
        "packing": stage.data.packing,
        "long_answers": {name: found.long_answers for name, found in lengths.items()},
        "cut_prompts": {
            name: found.effects.get("cut_context", 0) for name, found in lengths.items()
        },
        "rows": {name: found.figures() for name, found in splits.items()},
        "positions": "needed" if needs_only(splits) else "all",
        "effects": {name: dict(found.effects) for name, found in lengths.items()},
        "dropped_pairs": _paths(splits)[:NAMED],
    }


def needs_only(splits: Mapping[str, ExampleSamples]) -> bool:
    """Return whether a pass computes only the positions that targets need."""
    return all(samples.form.needed_only for samples in splits.values())


def computed_all(folder: StageFolder) -> bool:
    """Return whether the stage began in a version that computed every position of a row.

    Such a run is resumed as it was: sums of other shapes differ in their last bits.
    """
    record = read_json(folder.data)
    return record is not None and record.get("positions") != "needed"


def sft_stage_of(context: StageContext) -> SftStage:
    """Return the sft stage that the line of ``context`` ends with."""
    return typed(context.recipe, context.lineage.trained[-1].stage, SftStage)


def _read_pairs(context: StageContext, stage: SftStage, split: str) -> list[Pair] | None:
    if not stage.data.is_own:
        folder = context.run.stage(str(context.lineage.data)).path
        return open_pairs(folder, split, stage_kind=context.stage.kind)
    if split == "test":
        return None
    train, held_out = read_user_pairs(stage.data)
    return train if split == "train" else held_out


def _samples(
    context: StageContext,
    stage: SftStage,
    pairs: list[Pair],
    layout: ChatLayout,
) -> ExampleSamples:
    """Encode pairs, and leave out or cut what does not fit, as the recipe says."""
    form = RowForm(
        sequence_length=stage.training.sequence_length,
        pad_id=layout.pad_id,
        packing=stage.data.packing,
        truncation=stage.data.truncation,
        seed=context.recipe.seed,
        needed_only=not computed_all(context.folder),
    )
    return ExampleSamples.of({PAIRS: encode_pairs(pairs, layout)}, form)


def _require_two(samples: ExampleSamples, split: str) -> None:
    if len(samples) >= 2:
        return
    too_long = f", and {len(samples.left_out)} too long" if samples.left_out else ""
    raise DataError(
        f"pairs of the {split} split",
        f"{len(samples)}{too_long}",
        "at least 2",
        "Add documents with pairs, or raise the split's fraction.",
    )


def _tell_lengths(samples: ExampleSamples, split: str) -> None:
    """Log what does not fit: on one rank, for all read the same."""
    count, effects = samples.lengths.examples, samples.lengths.effects
    if samples.left_out:
        log.info(
            "%d of %d %s examples are left out, for they do not fit: %s",
            len(samples.left_out),
            count,
            split,
            _shown([left.example.path for left in samples.left_out]),
        )
    told: tuple[tuple[Literal["cut_end", "cut_left", "cut_context"], str], ...] = (
        ("cut_end", "answers do not fit and lose their end"),
        ("cut_left", "examples do not fit and lose the beginning of their contents"),
        ("cut_context", "prompts do not fit beside their answer and lose their beginning"),
    )
    for effect, what in told:
        if effects.get(effect):
            log.info("%d of %d %s %s", effects[effect], count, split, what)


def _paths(splits: Mapping[str, ExampleSamples]) -> list[str]:
    return [left.example.path for samples in splits.values() for left in samples.left_out]


def _shown(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more
