"""Examples of a stage of fine-tuning as it trains them: ``distrain data sample --stage``."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from distrain.config.reading.load import read_resolved
from distrain.config.recipe import FinetuneStage
from distrain.data.tokenizer.reader import Reader
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import NotFoundError
from distrain.runs.folder import RunFolder
from distrain.stages.context import StageContext
from distrain.stages.found_model import make_tokenizer
from distrain.stages.sft_data import build_encoder, find_training_examples
from distrain.stages.sft_records import choose_examples, show_example
from distrain.stages.sft_samples import ExampleSamples

Record = dict[str, Any]


def shown(arguments: argparse.Namespace) -> Iterator[Record]:
    """Yield a record of each example that was chosen, before or after the stage has begun.

    Raises:
        NotFoundError: The run has no such stage, or the stage no such split.
    """
    run = RunFolder(Path(arguments.target))
    splits, tokenizer = read_stage(run, arguments.stage)
    split = arguments.split or "train"
    if split not in splits:
        raise NotFoundError(
            f"--split {split}",
            "a split that only evaluate opens",
            f"one of {', '.join(splits)}",
            "Correct --split.",
        )
    reader = Reader(tokenizer)
    samples = splits[split]
    for source, example in choose_examples(samples, arguments.number, arguments.seed):
        if arguments.source not in (None, source):
            continue
        record = {"stage": arguments.stage, "split": split, "source": source}
        record |= show_example(example, reader, arguments.max_tokens)
        if arguments.tokens:
            ids, trained = example.ids.tolist(), example.is_trained.tolist()
            record["ids"] = [
                [token, reader.name_of(token), is_target]
                for token, is_target in zip(ids, trained, strict=True)
            ]
        yield record


def read_stage(run: RunFolder, stage: str) -> tuple[dict[str, ExampleSamples], Tokenizer]:
    """Read the examples of a stage as it reads them, and its tokenizer.

    Raises:
        NotFoundError: The run has no such stage of kind sft.
        DataError: They are missing or damaged, or cannot be used.
    """
    recipe = read_resolved(run.resolved)
    config = recipe.stages.get(stage)
    if not isinstance(config, FinetuneStage):
        names = [name for name, each in recipe.stages.items() if isinstance(each, FinetuneStage)]
        raise NotFoundError(
            f"stage {stage} of run {run.root.name}",
            "none" if config is None else f"a stage of kind {config.kind}",
            f"one of: {', '.join(names)}" if names else "a run with a stage of kind sft",
            "Correct --stage.",
        )
    context = StageContext(recipe, run, stage, attempt=None)
    with TemporaryDirectory() as scratch:
        path = make_tokenizer(context, Path(scratch))
        tokenizer = Tokenizer.load(path)
        encoder = build_encoder(context, config, context.folder, path, tokenizer)
    train, validation = find_training_examples(context, encoder)
    return {"train": train, "validation": validation}, tokenizer
