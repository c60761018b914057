"""Settings of a node's cache: its folder, its limit, and the deadlines for a block."""

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from distrain.config.loading import CacheConfig

CACHE_VARIABLE = "DISTRAIN_CACHE_DIR"
FREE_SHARE = 0.5


def default_folder() -> Path:
    """``$DISTRAIN_CACHE_DIR``, or a folder of this user in the system's one for temporary files."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path(tempfile.gettempdir()) / f"distrain-cache-{os.getuid()}"


@dataclass(frozen=True)
class CacheSettings:
    """Of the block cache of one process; processes with the same folder share the blocks.

    Args:
        folder: On a local disk of the node.
        limit_bytes: 0: half of what is free on that disk when the cache is opened.
        threads: Downloads ahead at a time, in this process.
        share: Processes of the node that share the limit; bounds what this one downloads ahead.
        stall_warning_s: A longer wait for a block is logged, with what is waited for.
        stall_deadline_s: A longer wait is an error. Below the timeout of the collectives (10 min
            for NCCL), so that the rank that waits names the block before its peers blame the rank.
    """

    folder: Path = field(default_factory=default_folder)
    limit_bytes: int = 0
    threads: int = 4
    share: int = 1
    stall_warning_s: float = 30.0
    stall_deadline_s: float = 300.0

    @classmethod
    def of_config(cls, config: CacheConfig, share: int) -> Self:
        """Return what a recipe asks for, in one of ``share`` processes of a node."""
        folder = Path(config.folder).expanduser() if config.folder else default_folder()
        return cls(
            folder,
            config.limit_bytes or 0,
            config.threads,
            share,
            float(config.stall_warning),
            float(config.stall_deadline),
        )

    def limit(self) -> int:
        """Return the limit in bytes; the folder must exist."""
        return self.limit_bytes or int(shutil.disk_usage(self.folder).free * FREE_SHARE)
