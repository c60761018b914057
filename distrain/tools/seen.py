"""The runtime's side of ``distrain data seen``: what a step read, which steps read one thing."""

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from distrain.config.reading.load import read_resolved
from distrain.config.recipe import Recipe
from distrain.errors import NotFoundError
from distrain.runs.folder import RunFolder
from distrain.tools.seen_documents import documents_seen
from distrain.tools.seen_examples import examples_seen

Record = dict[str, Any]
Answer = Callable[[RunFolder, Recipe, str, int | None, str], Iterator[Record]]

KINDS: Mapping[str, Answer] = {
    "pretrain": documents_seen,
    "sft": examples_seen,
    "preference": examples_seen,
}
"""By the kind of the stage; the first that a run has is meant where no stage is named."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes besides the run."""
    parser.add_argument("--stage")
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--step", type=int)
    wanted.add_argument("--document")


def seen(arguments: argparse.Namespace) -> Iterator[Record]:
    """Yield a record of what was asked for, then one of each part of a document, or example.

    Raises:
        NotFoundError: There is no such stage, it has not begun, or it has read no such thing.
    """
    run = RunFolder(Path(arguments.target))
    recipe = read_resolved(run.resolved)
    stage = _stage_named(run, recipe, arguments.stage)
    answer = KINDS[recipe.stages[stage].kind]
    yield from answer(run, recipe, stage, arguments.step, arguments.document)


def _stage_named(run: RunFolder, recipe: Recipe, name: str | None) -> str:
    by_kind = {
        kind: [stage for stage, config in recipe.stages.items() if config.kind == kind]
        for kind in KINDS
    }
    stages = [stage for found in by_kind.values() for stage in found]
    if name in stages:
        return str(name)
    # Nobody has to name what there is only one of. A run that pretrains is asked for documents.
    meant = next(filter(None, by_kind.values()), [])
    if name is None and len(meant) == 1:
        return meant[0]
    if name is not None:
        found = f"a stage of kind {recipe.stages[name].kind}" if name in recipe.stages else "none"
        remedy = "Correct --stage."
    else:
        found = f"{len(meant)} of them"
        remedy = f"Name it with --stage {meant[0]}." if meant else "Name another run."
    kinds = " or ".join(KINDS)
    raise NotFoundError(
        f"stage {name or f'of kind {kinds}'} in run {run.root.name}",
        found,
        f"one of: {', '.join(stages)}" if stages else f"a run with a stage of kind {kinds}",
        remedy,
    )
