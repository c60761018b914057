"""Blocks of remote shards for their readers: from the node's disk, or downloaded once a node.

The wait for a block has a watchdog: it is logged when it is long, and ends in an error that names
the block. The downloads run in threads of their own, so one that hangs cannot hold up that error.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future, wait
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distrain.data.remote.cache.blocks import Block
from distrain.data.remote.cache.directory import CacheDirectory
from distrain.data.remote.cache.fetching import TransferProgress, complete, late
from distrain.data.remote.cache.look_ahead import LookAhead
from distrain.data.remote.cache.settings import CACHE_VARIABLE, CacheSettings
from distrain.errors import DataError
from distrain.fault.page import page

log = logging.getLogger(__name__)

MAX_MAPPED = 256
"""Blocks that a process keeps mapped; each costs a file descriptor, and there may be only 1024."""
TOUCH_S = 10.0
MARK_S = 1.0
"""Between two looks at a download that is waited for."""
FIRST_POLL_S = 0.002
MAX_POLL_S = 0.05


class Download(TransferProgress):
    """A block on its way in this process."""

    def __init__(self, deadline: float) -> None:
        super().__init__(deadline)
        self.done: Future[NDArray[np.uint8] | None] = Future()


@dataclass
class _Mapped:
    content: NDArray[np.uint8]
    touched: float


class BlockCache:
    """Blocks by digest; any number of threads and processes may ask for them.

    Args:
        settings: Folder, limit and deadlines.

    Raises:
        DataError: The folder cannot be used.
    """

    def __init__(self, settings: CacheSettings | None = None) -> None:
        self.settings = settings or CacheSettings()
        folder = self.settings.folder
        try:
            # For this user alone: what a run trains on may be private, and the disk is shared.
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.directory = CacheDirectory(folder, self.settings.limit())
        except OSError as error:
            raise DataError(
                str(folder),
                f"a cache folder that cannot be used ({error.strerror})",
                "a folder on a local disk that this user may write to",
                f"Set data.cache.folder, or {CACHE_VARIABLE}, to one.",
            ) from error
        self._lock = threading.Lock()
        self._mapped: OrderedDict[str, _Mapped] = OrderedDict()
        self._downloads: dict[str, Download] = {}
        self._look_aheads: list[LookAhead] = []

    def get(self, block: Block) -> NDArray[np.uint8]:
        """Return the bytes of a block, mapped; valid as long as the array is, whatever is evicted.

        Raises:
            DataError: It is not there, is damaged at its source, or did not come in time.
        """
        # Also if the block is mapped: the look-ahead measures by this how far the reader has come.
        for look_ahead in self._look_aheads:
            look_ahead.note_read(block)
        with self._lock:
            mapped = self._mapped.get(block.key)
            if mapped is not None:
                self._mapped.move_to_end(block.key)
        if mapped is not None:
            now = time.monotonic()
            # Eviction needs the order of blocks within minutes; a system call for each read would
            # cost more than the read.
            if now - mapped.touched > TOUCH_S:
                mapped.touched = now
                self.directory.touch(block.key)
            return mapped.content
        content = self._wait_for(block)
        with self._lock:
            self._mapped[block.key] = _Mapped(content, time.monotonic())
            while len(self._mapped) > MAX_MAPPED:
                self._mapped.popitem(last=False)
        return content

    def fetch_ahead(self, blocks: Iterable[Block], *, budget_bytes: int | None = None) -> LookAhead:
        """Download ``blocks`` in threads, in this order, until the caller closes what is returned.

        Args:
            blocks: In the order in which they will be read; may have no end, and may repeat.
            budget_bytes: Of blocks that are not read yet; default: a half of this process' share.
        """
        # A half, so that what comes next does not evict what is just being read.
        share = self.directory.limit_bytes // (2 * self.settings.share)
        look_ahead = LookAhead(
            blocks,
            self._ensure,
            budget_bytes=share if budget_bytes is None else min(budget_bytes, share),
            threads=self.settings.threads,
            on_close=self._look_aheads.remove,
        )
        self._look_aheads.append(look_ahead)
        look_ahead.start()
        return look_ahead

    def _wait_for(self, block: Block) -> NDArray[np.uint8]:
        started = time.monotonic()
        while True:
            content = self._open(block)
            if content is not None:
                return content
            download, is_new = self._join(block)
            if is_new:
                # Not a pool: its threads would be waited for when the process ends.
                threading.Thread(target=self._run, args=(block, download), daemon=True).start()
            content = self._watch(block, download, started)
            if content is not None:
                return content

    def _watch(self, block: Block, download: Download, started: float) -> NDArray[np.uint8] | None:
        """Wait for a download; ``None`` if another process has made the block."""
        warn_after = self.settings.stall_warning_s
        deadline = self.settings.stall_deadline_s
        while not download.done.done():
            waited = time.monotonic() - started
            if waited >= deadline:
                raise late(block, download.activity)
            if waited >= warn_after:
                log.warning(
                    "waiting for %s (%s) for %.0f s, until %.0f s: %s",
                    block.label,
                    block.url,
                    waited,
                    deadline,
                    download.activity,
                )
                # At doubling times: a wait of minutes is a few lines for each rank, not hundreds.
                warn_after = 2 * waited
            page.mark_fetch()  # this wait has its own deadline
            wait([download.done], timeout=min(min(warn_after, deadline) - waited, MARK_S))
        return download.done.result()

    def _open(self, block: Block) -> NDArray[np.uint8] | None:
        content = self.directory.open(block.key)
        if content is None:
            return None
        # Each time a process maps a block: they are not synced, so a crash may have cut one.
        if not block.is_content(content.data):
            log.warning(
                "%s was damaged in the cache (%s); it is downloaded again",
                block.label,
                self.directory.path(block.key),
            )
            self.directory.remove(block.key)
            return None
        self.directory.touch(block.key)
        return content

    def _ensure(self, block: Block) -> None:
        """Download a block unless it is there; a failure is met again by who reads the block."""
        # By name alone: whoever reads the block compares it, and to do it here would read all
        # twice.
        if self.directory.path(block.key).exists():
            self.directory.touch(block.key)
            return
        download, is_new = self._join(block)
        if is_new:
            self._run(block, download)
        # Waits, if another thread downloads it.
        error = download.done.exception()
        if error is not None:
            log.warning("%s", error)

    def _join(self, block: Block) -> tuple[Download, bool]:
        """Return the block's download in this process, and whether the caller has to run it."""
        deadline = time.monotonic() + self.settings.stall_deadline_s
        with self._lock:
            download = self._downloads.get(block.key)
            if download is None:
                download = self._downloads[block.key] = Download(deadline)
                return download, True
            # Whoever comes later waits a whole deadline too, not what the first one has left of it.
            download.deadline = deadline
            return download, False

    def _run(self, block: Block, download: Download) -> None:
        try:
            result = self._download(block, download)
        except Exception as error:  # noqa: BLE001  (raised again where the block is waited for)
            # Before the result: whoever it wakes must be able to begin a new download.
            self._leave(block)
            download.done.set_exception(error)
        else:
            self._leave(block)
            download.done.set_result(result)

    def _leave(self, block: Block) -> None:
        with self._lock:
            del self._downloads[block.key]

    def _download(self, block: Block, download: Download) -> NDArray[np.uint8] | None:
        poll_s = FIRST_POLL_S
        path = self.directory.path(block.key)
        # Polled: a lock that blocks could not be given up at the deadline.
        while (part := self.directory.try_claim(block.key)) is None:
            download.activity = "another thread or process of this node downloads it"
            if time.monotonic() > download.deadline:
                raise late(block, download.activity)
            time.sleep(poll_s)
            poll_s = min(2 * poll_s, MAX_POLL_S)
            if path.exists():
                return None
        with part:
            # Between the reader's look and this claim another process may have finished it.
            return None if path.exists() else part.commit(complete(block, download))
