"""A pretraining stage of a run as it reads its data, opened again from its records.

The stage may be running: nothing is changed, and what its records say so far is what is known.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distrain.config.lineage import lineage_of
from distrain.config.reading.load import read_resolved
from distrain.config.recipe import PrepareStage, PretrainStage, Recipe
from distrain.data.opened import FORMS
from distrain.data.opened.form import PreparedData, SampleSettings
from distrain.data.samples.feed import Feed
from distrain.data.samples.schedule import Schedule
from distrain.data.samples.seen import DocumentPart, Ledger, SeenSource, byte_ranges
from distrain.data.samples.source import OpenedSource
from distrain.data.shards.document_names import DocumentNames
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import DataError, NotFoundError
from distrain.runs.folder import RunFolder, StageFolder
from distrain.runs.json_lines import read_records
from distrain.runs.records import STEP, StageData, read_json
from distrain.stages.context import typed
from distrain.stages.pretrain_data import open_source

Record = dict[str, Any]
FIRST_SAMPLE = "data/first_sample"


class StageReading:
    """A pretraining stage as it reads its data.

    Args:
        root: Of the run.
        stage: Its name; needed only where the run has several.

    Raises:
        NotFoundError: There is no such stage, or it has not begun.
    """

    def __init__(self, root: Path, stage: str | None) -> None:
        self.run = RunFolder(root)
        self.recipe = read_resolved(self.run.resolved)
        self.stage = _stage_named(self.run, self.recipe, stage)
        self.folder = self.run.stage(self.stage)
        self.record = _read_data(self.run, self.folder)
        self.steps_made = _steps_made(self.folder)
        self._opened: list[OpenedSource] = []

    @property
    def _prepare(self) -> StageFolder:
        return self.run.stage(str(lineage_of(self.recipe.stages, self.stage).data))

    @property
    def where(self) -> str:
        """For messages."""
        return f"stage {self.stage} of run {self.run.root.name}"

    @property
    def is_done(self) -> bool:
        """Whether no further step will be made."""
        state = read_json(self.folder.state)
        return state is not None and state["state"] == "done"

    @cached_property
    def sources(self) -> dict[str, OpenedSource]:
        """The sources as the stage reads them; of ready shards, only sizes are checked.

        Not the digests: ``check_recorded`` shows whether the rows that matter are the same.
        """
        prepared = PreparedData(
            typed(self.recipe, self._prepare.name, PrepareStage).data,
            self._prepare,
            typed(self.recipe, self.stage, PretrainStage).data,
            stage_kind="pretrain",
            is_look=True,
        )
        settings = SampleSettings(
            self.folder.path, self.record["sequence_length"], self.record["seed"]
        )
        for name in self.record["sources"]:
            if not FORMS[prepared.data.form_of(name)].keeps_names:
                raise DataError(
                    f"source '{name}' of {self.where}",
                    "ready tokens, whose documents have no names or text here",
                    "sources that the prepare stage has made of text",
                    "Look at the documents where they lie, with `distrain data sample`.",
                )
        opened = {}
        for name in self.record["sources"]:
            opened[name] = open_source(prepared, name, settings)
            self._opened.append(opened[name])
        return opened

    @cached_property
    def feed(self) -> Feed:
        """The feed that makes the stage's rows.

        Raises:
            DataError: Shards or settings are not those that the stage reads.
        """
        schedule = Schedule.from_json(self.record["schedule"])
        feed = Feed(self.sources, schedule, self.record["seed"])
        feed.restore(self.record, 0)  # compares the fingerprints
        return feed

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger of the feed's rows, over the sources that were read so far."""
        consumed = Ledger(self.feed.plan, {}).consumed(self.steps_made)
        # A source that is made on the fly and was not read yet would have to be made for it.
        sources = {
            name: SeenSource.of(source, max(1, consumed[name]))
            for name, source in self.sources.items()
            if consumed[name] or source.num_samples is not None
        }
        return Ledger(self.feed.plan, sources)

    @property
    def is_on_the_fly(self) -> bool:
        """Whether what later steps read is not known yet."""
        return any(source.num_samples is None for source in self.sources.values())

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Bytes of each id."""
        return Tokenizer.load(self._prepare.tokenizer).token_bytes()

    @property
    def bytes_are_exact(self) -> bool:
        """Whether the sizes of the ids add up to the texts that they were made from."""
        return all(
            int(split.token_counts @ self.sizes) == split.manifest.text_bytes
            for name in self.ledger.sources
            for split in self.sources[name].splits
        )

    @cached_property
    def names(self) -> dict[str, DocumentNames]:
        """Names of documents, by source."""
        return {
            name: DocumentNames(source.tokens, self.sources[name].splits)
            for name, source in self.ledger.sources.items()
        }

    def shard_name(self, source: str, shard: int) -> str:
        """Return the name of a shard's files, after its range's if it was made on the fly."""
        for split in self.sources[source].splits:
            shards = split.manifest.shards
            if shard < len(shards):
                # ``<range>/<split>/<source>``: shards of ranges have equal names, and need the
                # range's.
                range_folder = split.path.parent.parent
                prefix = "" if range_folder == self._prepare.path else f"{range_folder.name}/"
                return prefix + shards[shard].name
            shard -= len(shards)
        return str(shard)

    def byte_ranges(self, parts: Sequence[DocumentPart]) -> list[tuple[int, int]]:
        """Return which bytes of their documents' texts parts of any sources stand for."""
        ranges: dict[int, tuple[int, int]] = {}
        for source in {part.source for part in parts}:
            places = [place for place, part in enumerate(parts) if part.source == source]
            chosen = [parts[place] for place in places]
            found = byte_ranges(self.ledger.sources[source].tokens, self.sizes, chosen)
            ranges |= dict(zip(places, found, strict=True))
        return [ranges[place] for place in range(len(parts))]

    def close(self) -> None:
        """End what opened sources have started."""
        for source in self._opened:
            source.close()

    def check_recorded(self, step: int) -> None:
        """Make the rows of a step, from 1, again and compare them with what it recorded, if it did.

        Raises:
            DataError: They differ.
        """
        records = (record for record in _step_records(self.folder) if record[STEP] == step)
        recorded = next(records, None)
        # The end of the records may be lost in a crash: the step was made all the same.
        if recorded is None:
            return
        first, size = self.feed.schedule.samples_of(step - 1)
        digest = self.feed.rows(np.arange(first, first + size)).digest(first)
        found = (first, size, digest)
        names = (FIRST_SAMPLE, "data/num_samples", "data/batch_hash")
        wanted = tuple(recorded[name] for name in names)
        if found != wanted:
            raise DataError(
                f"step {step} of {self.where}",
                f"samples from {first} on, {size} of them, with hash {digest}",
                f"from {wanted[0]} on, {wanted[1]} with hash {wanted[2]}, as the step has recorded",
                f"Look for damage: `distrain data verify {self.run.root.name}`.",
            )


def _stage_named(run: RunFolder, recipe: Recipe, name: str | None) -> str:
    stages = [stage for stage, config in recipe.stages.items() if config.kind == "pretrain"]
    if name in stages:
        return str(name)
    # Nobody has to name what there is only one of.
    if name is None and len(stages) == 1:
        return stages[0]
    if name is not None:
        found = f"a stage of kind {recipe.stages[name].kind}" if name in recipe.stages else "none"
        remedy = "Correct --stage."
    else:
        found = f"{len(stages)} of them"
        remedy = f"Name it with --stage {stages[0]}." if stages else "Name another run."
    raise NotFoundError(
        f"stage {name or 'of kind pretrain'} in run {run.root.name}",
        found,
        f"one of: {', '.join(stages)}" if stages else "a run with a stage of kind pretrain",
        remedy,
    )


def _read_data(run: RunFolder, folder: StageFolder) -> StageData:
    record = read_json(folder.data)
    if record is None:
        raise NotFoundError(
            str(folder.data),
            f"nothing: stage {folder.name} has read no sample yet",
            "the record that a stage writes as it begins to train",
            f"Start it with `distrain resume {run.root.name}`.",
        )
    return record  # type: ignore[return-value]


def _steps_made(folder: StageFolder) -> int:
    """Return the last step that was recorded or committed."""
    state = read_json(folder.state)
    committed: int = state["step"] if state is not None else 0
    # Records first: the state names the last checkpoint, and steps were made since.
    return max((record[STEP] for record in _step_records(folder)), default=committed)


def _step_records(folder: StageFolder) -> Iterator[Record]:
    """Yield the records of steps, without those of validations."""
    return (record for record in read_records(folder.metrics) if FIRST_SAMPLE in record)
