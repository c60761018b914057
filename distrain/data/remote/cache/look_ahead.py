"""Downloads blocks before they are read, in the order in which they will be, and not too many."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from distrain.data.remote.cache.blocks import Block

MAX_REPEATS = 1000
"""Blocks listed again before the reader has come on; then nothing new is to be had from listing."""


class LookAhead:
    """Threads that keep ahead of the reader. Made by ``BlockCache.fetch_ahead``; a context.

    A block counts against the budget from its listing until it, or one listed after it, is read.

    Args:
        blocks: In the order of reading; drawn from only as far as the budget allows.
        ensure: Downloads a block unless it is there.
        on_close: Told that this one is closed.
    """

    def __init__(
        self,
        blocks: Iterable[Block],
        ensure: Callable[[Block], None],
        *,
        budget_bytes: int,
        threads: int,
        on_close: Callable[["LookAhead"], None],
    ) -> None:
        self.budget_bytes = budget_bytes
        self._blocks = iter(blocks)
        self._ensure = ensure
        self._on_close = on_close
        self._listed: OrderedDict[str, int] = OrderedDict()
        """Sizes of the blocks that count against the budget, in the order of listing."""
        self._listed_bytes = 0
        self._next: Block | None = None
        self._repeats = 0
        self._is_closed = False
        self._changed = threading.Condition()
        self._threads = [
            # Daemons: a download that hangs must not keep a process from its end.
            threading.Thread(target=self._work, name=f"look-ahead-{number}", daemon=True)
            for number in range(threads)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Begin to download."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Begin no further download; those under way end by themselves."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._changed.notify_all()
        # Outside the lock: it is code of others, who may hold one of their own.
        self._on_close(self)

    def note_read(self, block: Block) -> None:
        """Note that the reader has come to ``block``, and is past all that was listed before."""
        # Without the lock, as every read comes by here. A block that is being listed at this moment
        # counts until a later one is read, which does no harm.
        if block.key not in self._listed:
            return
        with self._changed:
            while block.key in self._listed:
                _, size = self._listed.popitem(last=False)
                self._listed_bytes -= size
            self._repeats = 0
            self._changed.notify_all()

    @property
    def listed_bytes(self) -> int:
        """Sizes of all blocks that were listed and are not read yet."""
        return self._listed_bytes

    def _work(self) -> None:
        while (block := self._take()) is not None:
            self._ensure(block)

    def _take(self) -> Block | None:
        """Wait until the next block fits; ``None`` at the end of the list or once closed."""
        with self._changed:
            while not self._is_closed:
                if self._next is None and self._repeats < MAX_REPEATS:
                    self._next = next(self._blocks, None)
                    if self._next is None:
                        return None
                    if self._next.key in self._listed:
                        # It counts already. An endless list of few blocks is not searched for ever:
                        # after ``MAX_REPEATS`` the reader has to come on first.
                        self._next = None
                        self._repeats += 1
                        continue
                if self._next is not None and self._fits(self._next):
                    block, self._next, self._repeats = self._next, None, 0
                    self._listed[block.key] = block.size_bytes
                    self._listed_bytes += block.size_bytes
                    return block
                self._changed.wait()
            return None

    def _fits(self, block: Block) -> bool:
        # One block larger than the budget must not stop everything.
        return not self._listed or self._listed_bytes + block.size_bytes <= self.budget_bytes
