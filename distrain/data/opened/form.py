"""A form of source: how its splits and its samples are opened, once the prepare stage is done."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from distrain.config.data import DataConfig
from distrain.config.loading import PretrainDataConfig
from distrain.data.samples.source import OpenedSource, SourceTokens
from distrain.runs.folder import StageFolder

if TYPE_CHECKING:
    from distrain.data.remote.cache.block_cache import BlockCache


@dataclass(frozen=True)
class PreparedData:
    """What a finished prepare stage leaves to one that reads its sources.

    Args:
        data: The ``data`` section of the prepare stage.
        folder: Of the prepare stage.
        reading: How the stage reads; that of the pretraining stage, whoever reads.
        stage_kind: Kind of the stage that reads; the test split opens for ``evaluate`` alone.
        local_ranks: Processes of this node that read; they share its cache.
        is_look: Someone looks at what a stage reads: no digest is compared, nothing is made ahead.
    """

    data: DataConfig
    folder: StageFolder
    reading: PretrainDataConfig
    stage_kind: str
    local_ranks: int = 1
    is_look: bool = False

    @cached_property
    def blocks(self) -> "BlockCache":
        """The node's cache; made when the first remote source is opened."""
        from distrain.data.remote.cache.block_cache import BlockCache
        from distrain.data.remote.cache.settings import CacheSettings

        # One for all sources: its limits are those of the node.
        return BlockCache(CacheSettings.of_config(self.reading.cache, self.local_ranks))


@dataclass(frozen=True)
class SampleSettings:
    """How a pretraining stage cuts samples and puts them in order.

    Args:
        folder: Of the stage; plans of packing lie there.
        length: T, tokens of a sample.
        seed: The recipe's.
    """

    folder: Path
    length: int
    seed: int


class SourceForm(Protocol):
    """Opens sources of one form."""

    keeps_names: bool
    """Whether documents have names and text, so that one can be asked for."""

    def tokens(self, prepared: PreparedData, name: str, split: str) -> SourceTokens:
        """Open one split of the source ``name``.

        Raises:
            PreflightError: The test split is asked for by another stage than ``evaluate``.
            DataError: It is not there, is damaged, or not what the prepare stage looked at.
        """
        ...

    def samples(self, prepared: PreparedData, name: str, settings: SampleSettings) -> OpenedSource:
        """Open what is trained on.

        Raises:
            DataError: As ``tokens``; or there is no sample.
        """
        ...
