"""The runtime's side of ``distrain data publish``: uploads what a prepare stage wrote."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distrain.config.reading.load import read_resolved
from distrain.config.recipe import PrepareStage
from distrain.data.remote.publish import PublishSettings, publish_each
from distrain.data.shards.manifest import list_sources
from distrain.errors import DataError, NotFoundError
from distrain.runs.folder import RunFolder
from distrain.runs.records import read_json

Record = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes besides the run."""
    parser.add_argument("url")
    parser.add_argument("--storage", choices=("zstd", "raw"), default="zstd")
    parser.add_argument("--stage")


def publish_run(arguments: argparse.Namespace) -> Iterator[Record]:
    """Yield a record of each source of each split, once it is whole at the URL.

    Raises:
        NotFoundError: There is no such stage.
        DataError: It is not finished, or has nothing to upload; or the upload fails.
    """
    target = Path(arguments.target)
    # Else it is the folder of a prepare stage itself, perhaps copied without its run.
    if RunFolder(target).resolved.is_file():
        target = _prepare_folder(RunFolder(target), arguments.stage)
    settings = PublishSettings(storage=arguments.storage)
    for manifest in publish_each(target, arguments.url, settings):
        yield {
            "url": f"{arguments.url.rstrip('/')}/{manifest.split}/{manifest.source}",
            "split": manifest.split,
            "source": manifest.source,
            "tokens": manifest.tokens,
            "documents": manifest.documents,
            "shards": len(manifest.shards),
            "storage": manifest.storage,
            "digest": manifest.digest,
        }


def _prepare_folder(run: RunFolder, name: str | None) -> Path:
    """Return the folder of the run's prepare stage, once it holds all that can be published."""
    recipe = read_resolved(run.resolved)
    stages = [name for name, stage in recipe.stages.items() if stage.kind == "prepare"]
    if name not in stages and (name is not None or len(stages) != 1):
        raise NotFoundError(
            f"stage {name or 'of kind prepare'} in run {run.root.name}",
            "none" if not stages or name is not None else f"{len(stages)} of them",
            f"one of: {', '.join(stages)}" if stages else "a run with a stage of kind prepare",
            "Name it with --stage." if stages else "Name another run.",
        )
    stage = recipe.stages[name or stages[0]]
    folder = run.stage(name or stages[0])
    assert isinstance(stage, PrepareStage), "stages are those of kind prepare"
    state = read_json(folder.state)
    # Whole splits may be there already, but readers would take them for all that there is.
    if state is None or state["state"] != "done":
        raise DataError(
            str(folder.path),
            "a stage that is not finished",
            "all splits of a prepare stage",
            f"Run `distrain resume {run.root.name}` first.",
        )
    # Text that is tokenized on the fly leaves shards of validation and test here, which alone are
    # nothing to train on.
    if not list_sources(folder.path, "train"):
        found = "text that is tokenized on the fly" if stage.data.on_the_fly else "ready tokens"
        raise DataError(
            str(folder.path),
            f"no shards of a train split: its sources are {found}",
            "shards that the stage has written",
            "Prepare the run again without data.on_the_fly."
            if stage.data.on_the_fly
            else "Copy the token files themselves.",
        )
    if stage.data.token_sources:
        left_out = ", ".join(stage.data.token_sources)
        # Standard output is for the records.
        sys.stderr.write(f"note: left out, as they are ready tokens: {left_out}\n")
    return folder.path
