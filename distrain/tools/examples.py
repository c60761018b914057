"""Examples of a stage of fine-tuning as it trains them: ``distrain data sample --stage``.

Of a run, or of a recipe whose run has no folder yet; then nothing is written but in a temporary
folder, which is removed.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from distrain.config.pretrained.gguf_file import read_gguf
from distrain.config.pretrained.resolve import is_gguf, resolve_pretrained
from distrain.config.reading.load import read_resolved
from distrain.config.recipe import FinetuneStage, Recipe, folder_of
from distrain.data.tokenizer.reader import Reader
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import NotFoundError
from distrain.models.gguf.convert import write_text_files
from distrain.runs.folder import RunFolder
from distrain.stages.context import StageContext, typed
from distrain.stages.found_model import make_tokenizer
from distrain.stages.sft_data import build_encoder, find_training_examples
from distrain.stages.sft_records import choose_examples, show_example
from distrain.stages.sft_samples import ExampleSamples

Record = dict[str, Any]

FROM_RECIPE = "-"
"""In the place of a run: a resolved recipe on standard input."""


def shown(arguments: argparse.Namespace) -> Iterator[Record]:
    """Yield a record of each example that was chosen, before or after the stage has begun.

    Raises:
        NotFoundError: The run has no such stage, or the stage no such split.
    """
    if arguments.target == FROM_RECIPE:
        splits, tokenizer = read_planned(sys.stdin.read(), arguments.stage)
    else:
        splits, tokenizer = read_stage(RunFolder(Path(arguments.target)), arguments.stage)
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
        NotFoundError: The run has no such stage of fine-tuning.
        DataError: They are missing or damaged, or cannot be used.
    """
    recipe = read_resolved(run.resolved)
    _require_tuning(recipe, stage, f"run {run.root.name}")
    context = StageContext(recipe, run, stage, attempt=None)
    return _read(context)


def read_planned(resolved: str, stage: str) -> tuple[dict[str, ExampleSamples], Tokenizer]:
    """As ``read_stage``, of a run that has not begun: its folder is made up, and removed again.

    Args:
        resolved: The recipe, as the run's ``resolved.yaml`` would have it.
        stage: Of fine-tuning.

    Raises:
        NotFoundError: As of ``read_stage``; or another stage has to make what this one reads.
        DataError: As of ``read_stage``.
        PreflightError: The user's model is not there.
    """
    with TemporaryDirectory(prefix="distrain-") as folder:
        run = RunFolder(Path(folder))
        run.resolved.write_text(resolved)
        recipe = read_resolved(run.resolved)
        config = _require_tuning(recipe, stage, f"the recipe {recipe.name}")
        context = StageContext(recipe, run, stage, attempt=None)
        written = folder_of(recipe.stages[context.first])
        if written is None or not config.data.is_own:
            raise NotFoundError(
                f"stage {stage} of the recipe {recipe.name}",
                f"{'a tokenizer' if written is None else 'pairs'} that the stage "
                f"{context.lineage.data} has to make first",
                "a stage with data of its own and a model that is there",
                f"Begin the run, then name it: as soon as that stage is done, `distrain data "
                f"sample {recipe.name} --stage {stage}` shows what this one trains on.",
            )
        return _read(context, _tokenizer_of(written, run.root))


def _tokenizer_of(written: str, folder: Path) -> Path:
    """Return where the tokenizer of a user's model lies; of a GGUF file it is written out."""
    path = resolve_pretrained(written)
    if not is_gguf(path):
        return path
    # A run converts all of it; for masks the weights are not needed.
    write_text_files(read_gguf(path), folder)
    return folder


def _require_tuning(recipe: Recipe, stage: str, whose: str) -> FinetuneStage:
    config = recipe.stages.get(stage)
    if isinstance(config, FinetuneStage):
        return config
    names = [name for name, each in recipe.stages.items() if isinstance(each, FinetuneStage)]
    raise NotFoundError(
        f"stage {stage} of {whose}",
        "none" if config is None else f"a stage of kind {config.kind}",
        f"one of: {', '.join(names)}" if names else "a stage of kind sft or preference",
        "Correct --stage.",
    )


def _read(
    context: StageContext, base: Path | None = None
) -> tuple[dict[str, ExampleSamples], Tokenizer]:
    config = typed(context.recipe, context.name, FinetuneStage)
    with TemporaryDirectory() as scratch:
        path = make_tokenizer(context, Path(scratch), base)
        tokenizer = Tokenizer.load(path)
        encoder = build_encoder(context, config, context.folder, path, tokenizer)
    train, validation = find_training_examples(context, encoder)
    return {"train": train, "validation": validation}, tokenizer
