"""Sources that are tokens already, as the stages after ``prepare`` open them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distrain.config.data import DataConfig
from distrain.config.loading import CacheConfig
from distrain.config.token_sources import TokenSource
from distrain.data.adapters.token_source import (
    PreparedTokens,
    content_digest,
    open_token_source,
)
from distrain.data.remote.cache.block_cache import BlockCache
from distrain.data.remote.cache.settings import CacheSettings
from distrain.data.shards.digests import BLOCK_BYTES
from distrain.data.shards.manifest import TEST_SPLIT, Manifest
from distrain.data.shards.reader import ShardedTokens, Split
from distrain.errors import DataError
from distrain.runs.folder import StageFolder
from distrain.runs.records import read_json


@dataclass(frozen=True)
class SourceTokens:
    """One split of one source, wherever its tokens lie.

    Args:
        digest: Stands for the content in a checkpoint.
        counts: File that holds how often each id occurs, if no manifest leads to one.
        cache: That blocks are downloaded into; ``None`` where all shards are local.
    """

    tokens: ShardedTokens
    digest: str
    counts: Path | None = None
    cache: BlockCache | None = None

    @classmethod
    def of_split(cls, split: Split) -> "SourceTokens":
        """Take what a prepare stage of this run wrote."""
        return cls(split, split.manifest.digest)

    def token_counts(self) -> NDArray[np.int64]:
        """Return how often each id occurs, shape (V,)."""
        if isinstance(self.tokens, Split):
            return self.tokens.token_counts
        if isinstance(self.tokens, PreparedTokens):
            total: NDArray[np.int64] = np.sum([part.token_counts for part in self.tokens.parts], 0)
            return total
        assert self.counts is not None, "tokens without a manifest are counted by prepare"
        counts: NDArray[np.int64] = np.load(self.counts)
        return counts

    def ends_digests(self) -> list[str] | None:
        """Return ``pack_files.ends_digest`` of each shard, where manifests know it."""
        if isinstance(self.tokens, Split):
            manifests: tuple[Manifest, ...] = (self.tokens.manifest,)
        elif isinstance(self.tokens, PreparedTokens):
            manifests = self.tokens.manifests
        else:
            return None
        if any(manifest.block_bytes != BLOCK_BYTES for manifest in manifests):
            return None
        return [
            manifest.files[f"{shard.name}.idx"].digest
            for manifest in manifests
            for shard in manifest.shards
        ]


class ReadySources:
    """Opens the sources of ready tokens of a prepare stage.

    Args:
        data: The stage's ``data`` section.
        prepare: Its folder; the stage is finished.
        cache: How the node keeps blocks of remote shards.
        share: Processes of the node that do the same.
    """

    def __init__(
        self, data: DataConfig, prepare: StageFolder, cache: CacheConfig, *, share: int = 1
    ) -> None:
        self.sources: Mapping[str, TokenSource] = data.token_sources
        self._prepare = prepare
        self._settings = CacheSettings.of_config(cache, share)

    @cached_property
    def blocks(self) -> BlockCache:
        """The node's cache; made when a remote source is opened."""
        return BlockCache(self._settings)

    def open(self, name: str, split: str, *, stage_kind: str) -> SourceTokens:
        """Open one split of one source.

        Raises:
            PreflightError: The test split is asked for by another stage than ``evaluate``.
            DataError: It is not there, is damaged, or not what the prepare stage looked at.
        """
        source = self.sources[name]
        blocks = self.blocks if source.is_remote else None
        index = self._prepare.ready_index / name
        tokens = open_token_source(source, split, stage_kind=stage_kind, ends=index, blocks=blocks)
        digest = content_digest(tokens)
        known = self._record[name]["digests"].get(split)
        if split != TEST_SPLIT and digest != known:
            raise DataError(
                f"source '{name}' ({', '.join(source.paths)})",
                f"other tokens in its {split} split than the prepare stage has looked at",
                "files that stay as they were",
                "Restore them, or start a new run over what is there now.",
            )
        return SourceTokens(tokens, digest, counts_file(index, digest), blocks)

    @cached_property
    def _record(self) -> dict[str, dict[str, dict[str, str]]]:
        record = read_json(self._prepare.ready)
        if record is None:
            raise DataError(
                str(self._prepare.ready),
                "no record of the sources of ready tokens",
                "the finished prepare stage of this recipe",
                "Run the prepare stage first.",
            )
        return record


def counts_file(index: Path, digest: str) -> Path:
    """Return where the ids of a split with this content are counted."""
    return index / f"{digest}.npy"
