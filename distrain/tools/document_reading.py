"""A pretraining stage of a run as it reads its documents."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from distrain.config.lineage import lineage_of
from distrain.config.recipe import PrepareStage, PretrainStage, Recipe
from distrain.data.opened import FORMS
from distrain.data.opened.form import PreparedData, SampleSettings
from distrain.data.samples.seen import DocumentPart, Ledger, SeenSource, byte_ranges
from distrain.data.samples.source import OpenedSource
from distrain.data.shards.document_names import DocumentNames
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import DataError
from distrain.runs.folder import RunFolder, StageFolder
from distrain.stages.context import typed
from distrain.stages.pretrain_data import open_source
from distrain.tools.stage_reading import StageReading


class DocumentReading(StageReading):
    """A pretraining stage as it reads its data; see ``StageReading``."""

    def __init__(self, run: RunFolder, recipe: Recipe, stage: str) -> None:
        super().__init__(run, recipe, stage)
        self._opened: list[OpenedSource] = []

    @property
    def _prepare(self) -> StageFolder:
        return self.run.stage(str(lineage_of(self.recipe.stages, self.stage).data))

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
    def ledger(self) -> Ledger:
        """The ledger of the feed's rows, over the sources that were read so far."""
        consumed = self.feed.plan.consumed_by_steps(self.steps_made)
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
