"""Select and encode the examples of an sft stage."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Literal, TypeVar

from distrain.config.chats import VALIDATION, ExampleDataConfig
from distrain.config.data import MAIN_SOURCE
from distrain.config.labels import PairChecksConfig
from distrain.config.loading import PretrainDataConfig
from distrain.config.recipe import FinetuneStage
from distrain.data.chats.encoder import ChatEncoder, Refused
from distrain.data.chats.example import EncodedExample, Example
from distrain.data.chats.pairs_file import example_of_pair, open_pairs
from distrain.data.chats.reading import read_examples
from distrain.data.corpus.labels import PromptAndAnswer, inspect_pairs
from distrain.data.samples.pairs import EncodedPair
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import DataError
from distrain.runs.folder import StageFolder
from distrain.runs.json_lines import read_records
from distrain.runs.records import read_json
from distrain.stages.context import StageContext, typed
from distrain.stages.preference_samples import PairSamples, encode_preferences
from distrain.stages.sft_samples import ExampleSamples, RowForm

log = logging.getLogger(__name__)

Item = TypeVar("Item")
BySource = dict[str, list[Item]]

PAIRS = "pairs"
"""Name of a source that has no other, as when there were only pairs: it is part of the order."""
MAX_DROPPED = 0.001
"""Examples, of those to train and to validate with, that ``data.truncation: refuse`` leaves out."""
SHOWN = 5


def check_pairs(pairs: Sequence[PromptAndAnswer], config: PairChecksConfig) -> None:
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


@dataclass(frozen=True, slots=True)
class Asked:
    """What an example asks and what is answered first, to compare examples by."""

    prompt: str
    answer: str
    path: str

    @classmethod
    def of(cls, example: Example) -> "Asked | None":
        """Look at an example; ``None`` for a running text, which answers nothing."""
        if example.completion is not None:
            answer = example.completion if example.prompt else ""
        else:
            said = [each for each in example.messages if each["role"] == "assistant"]
            # A turn may be a call of a tool and nothing else.
            answer = str(said[0].get("content") or said[0].get("tool_calls") or "") if said else ""
        return cls(example.asked, answer, example.path) if answer and example.asked else None


def build_encoder(
    context: StageContext,
    stage: FinetuneStage,
    folder: StageFolder,
    path: Path,
    tokenizer: Tokenizer,
) -> ChatEncoder:
    """Make what lays out the examples of an sft stage.

    Args:
        context: Of the stage that reads.
        stage: The sft stage.
        folder: Of the sft stage.
        path: Of the tokenizer, or of the model's folder.
        tokenizer: That lies there.
    """
    return ChatEncoder(
        path,
        tokenizer,
        train_on=stage.data.train_on,
        template_arguments=stage.data.template_arguments,
        # Older versions gave templates no clock, and their runs go on without one.
        today=None if computed_all(folder) else day_told(context, stage.data.template_date),
        engine="auto",
    )


def day_told(context: StageContext, *stated: str | None) -> date | None:
    """Return what templates are told: the first day that the recipe states, if it does.

    Stages of fine-tuning state one, but in runs of older versions. Where none is stated it is the
    day on which the run began.
    """
    told = next((day for day in stated if day is not None), None)
    if told is not None:
        return date.fromisoformat(told)
    events = context.run.events
    if not events.exists():
        return None
    first = next(iter(read_records(events)), None)
    return None if first is None else datetime.fromisoformat(first["time"]).date()


def find_training_examples(
    context: StageContext, encoder: ChatEncoder
) -> tuple[ExampleSamples, ExampleSamples]:
    """Find the train and the validation examples of a stage of fine-tuning.

    Raises:
        DataError: They are missing, damaged, too few to measure anything, or faulty, or too many
            answers do not fit into a sample.
    """
    stage = tuned_stage_of(context)
    found, rows = _read(context, stage, ("train", "validation"))
    asked = [Asked.of(each) for examples in found["train"].values() for each in examples]
    check_pairs([each for each in asked if each is not None], stage.data.checks)
    splits = {
        split: _samples(context, stage, examples, encoder, rows.get(split))
        for split, examples in found.items()
    }
    check_lengths(splits)
    for split, samples in splits.items():
        _require_two(samples, split)
        tell_lengths(samples, split)
    return splits["train"], splits["validation"]


def find_test_examples(context: StageContext, encoder: ChatEncoder) -> ExampleSamples | None:
    """Find the test examples for the line of an ``evaluate`` stage, as its last stage says.

    Returns:
        ``None`` for a user's own data without a test split.

    Raises:
        DataError: They are missing, damaged or too few to measure anything.
    """
    stage = tuned_stage_of(context)
    if stage.data.is_own and not stage.data.test_fraction:
        return None
    examples = _read(context, stage, ("test",))[0]["test"]
    # After training no budget can be raised any more: what the template refuses is counted.
    patient = stage.data.model_copy(update={"skip_budget": sum(map(len, examples.values()))})
    stage = stage.model_copy(update={"data": patient})
    samples = _samples(context, stage, examples, encoder)
    _require_two(samples, "test")
    tell_lengths(samples, "test")
    return samples


def reading_of(stage: FinetuneStage) -> PretrainDataConfig:
    """Return in which shares the sources of a stage are read."""
    mixture = stage.data.mixture
    if mixture is not None and stage.data.sources is None:
        mixture = {PAIRS: mixture[MAIN_SOURCE]}
    return PretrainDataConfig(mixture=mixture)


def check_lengths(
    splits: Mapping[str, ExampleSamples], setting: str = "training.sequence_length"
) -> None:
    """Refuse examples of which too many would lose what is trained on.

    Args:
        splits: Samples by split.
        setting: That says how long a row is.

    Raises:
        DataError: So many are left out that the recipe should say what is meant.
    """
    form = next(iter(splits.values())).form
    if form.truncation != "refuse":
        return
    too_long = {split: _too_long(samples) for split, samples in splits.items()}
    dropped = [path for found in too_long.values() for path in found]
    total = sum(samples.lengths.examples for samples in splits.values())
    if len(dropped) <= MAX_DROPPED * total:
        return
    longest = max(samples.lengths.longest for samples in splits.values())
    counts = ", ".join(f"{len(found)} to {split}" for split, found in too_long.items())
    raise DataError(
        "data.truncation: refuse",
        f"{len(dropped):,} of {total:,} pairs ({counts}) whose answer does not fit into "
        f"{setting} {form.sequence_length}: {_shown(dropped)}",
        f"at most {int(MAX_DROPPED * total):,} (0.1 %), which are left out",
        f"Raise {setting} (the longest answer needs {longest}), shorten the "
        "answers, or set data.truncation to cut (each then loses its end), cut_left (what was said "
        "first goes) or drop (they are left out).",
    )


def computed_all(folder: StageFolder) -> bool:
    """Return whether the stage began in a version that computed every position of a row.

    Such a run is resumed as it was: sums of other shapes differ in their last bits.
    """
    record = read_json(folder.data)
    return record is not None and record.get("positions") != "needed"


def tuned_stage_of(context: StageContext) -> FinetuneStage:
    """Return the stage of fine-tuning that the line of ``context`` ends with."""
    return typed(context.recipe, context.lineage.trained[-1].stage, FinetuneStage)


def _read(
    context: StageContext, stage: FinetuneStage, splits: Sequence[str]
) -> tuple[dict[str, BySource[Example]], dict[str, BySource[Refused]]]:
    """Return the examples of each split, by source, and the rows that make none."""
    kind = context.stage.kind
    if not stage.data.is_own:
        folder = context.run.stage(str(context.lineage.data)).path
        pairs = {split: open_pairs(folder, split, stage_kind=kind) for split in splits}
        return {
            split: {PAIRS: list(map(example_of_pair, found))} for split, found in pairs.items()
        }, {}
    found = read_examples(stage.data, stage_kind=kind)
    if stage.data.sources is None:
        found = {PAIRS if name == MAIN_SOURCE else name: each for name, each in found.items()}
    rows: dict[str, BySource[Refused]] = {"train": {}, "validation": {}}
    for name, source in found.items():
        # Nobody knows what a row asks that makes no example, so it counts where most of them go.
        split = "validation" if name == VALIDATION else "train"
        rows[split][name] = [Refused(row.path, "row", row.reason) for row in source.refused]
    examples = {
        split: {name: getattr(each, split) for name, each in found.items()} for split in splits
    }
    return examples, rows


def _samples(
    context: StageContext,
    stage: FinetuneStage,
    examples: Mapping[str, Sequence[Example]],
    encoder: ChatEncoder,
    rows: BySource[Refused] | None = None,
) -> ExampleSamples:
    """Encode examples, and leave out or cut what does not fit, as the recipe says."""
    form = RowForm(
        sequence_length=stage.training.sequence_length,
        pad_id=encoder.pad_id,
        packing=stage.data.packing,
        truncation=stage.data.truncation,
        seed=context.recipe.seed,
        needed_only=not computed_all(context.folder),
        stop_ids=tuple(sorted(encoder.stop_ids)),
    )
    return encode_samples(examples, encoder, form, stage.data, rows)


def encode_samples(
    examples: Mapping[str, Sequence[Example]],
    encoder: ChatEncoder,
    form: RowForm,
    data: ExampleDataConfig,
    rows: BySource[Refused] | None = None,
) -> ExampleSamples:
    """Encode examples, and leave out or cut what does not fit.

    Args:
        examples: By source.
        encoder: Lays each of them out.
        form: Of rows.
        data: Says what the examples are, and how many may be refused.
        rows: Those that made no example.

    Raises:
        DataError: More are refused.
    """
    encoded: dict[str, Sequence[EncodedExample | EncodedPair | Refused]]
    made: type[ExampleSamples]
    if data.reads_preferences:
        made = PairSamples
        encoded = {name: encode_preferences(encoder, found) for name, found in examples.items()}
    else:
        made = ExampleSamples
        encoded = {name: encoder.encode(found) for name, found in examples.items()}
    refused = {
        name: [each for each in found if isinstance(each, Refused)]
        for name, found in encoded.items()
    }
    for name, unread in (rows or {}).items():
        refused[name] = [*unread, *refused.get(name, [])]
    _check_refused([each for found in refused.values() for each in found], data.skip_budget)
    return made.of(
        {
            name: [each for each in found if not isinstance(each, Refused)]
            for name, found in encoded.items()
        },
        form,
        refused,
    )


def _check_refused(refused: Sequence[Refused], budget: int) -> None:
    if len(refused) <= budget:
        return
    # Rows that make no example are fewer: else they would not have been read to the end.
    refused = [each for each in refused if each.reason != "row"]
    shown = "; ".join(f"{each.path}: {each.detail}" for each in refused[:SHOWN])
    more = f" and {len(refused) - SHOWN} more" if len(refused) > SHOWN else ""
    raise DataError(
        "examples of fine-tuning",
        f"{len(refused)} that the model's chat template cannot show as they are: {shown}{more}",
        f"examples that are shown whole; data.skip_budget is {budget}",
        f"Correct or remove {refused[0].path} first, or raise data.skip_budget: such examples are "
        "then left out, and counted.",
    )


def _too_long(samples: ExampleSamples) -> list[str]:
    """Return where the examples were read that do not fit.

    What the template refuses is left out as well, and has a budget and counts of its own.
    """
    return [left.path for left in samples.left_out if left.needed is not None]


def _require_two(samples: ExampleSamples, split: str) -> None:
    if len(samples) >= 2:
        return
    left_out = _too_long(samples)
    too_long = f", and {len(left_out)} too long" if left_out else ""
    raise DataError(
        f"pairs of the {split} split",
        f"{len(samples)}{too_long}",
        "at least 2",
        "Add documents with pairs, or raise the split's fraction.",
    )


def tell_lengths(samples: ExampleSamples, split: str) -> None:
    """Log what does not fit: on one rank, for all read the same."""
    count, effects = samples.lengths.examples, samples.lengths.effects
    too_long = _too_long(samples)
    if too_long:
        log.info(
            "%d of %d %s examples are left out, for they do not fit: %s",
            len(too_long),
            count,
            split,
            _shown(too_long),
        )
    refused = [left.path for left in samples.left_out if left.needed is None]
    if refused:
        log.info(
            "%d of %d %s examples are left out, within data.skip_budget: %s",
            len(refused),
            count,
            split,
            _shown(refused),
        )
    told: tuple[tuple[Literal["cut_end", "cut_left", "cut_context"], str], ...] = (
        ("cut_end", "answers do not fit and lose their end"),
        ("cut_left", "examples do not fit and lose the beginning of their contents"),
        ("cut_context", "prompts do not fit beside their answer and lose their beginning"),
    )
    for effect, what in told:
        if effects.get(effect):
            log.info("%d of %d %s %s", effects[effect], count, split, what)


def _shown(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more
