"""Shards of input ranges, made when they are needed: by one process, for all that want them.

A range's shards are a pure function of the range, so it does not matter who makes them; a lock
sees to it that only one process does at a time. Each rank looks ahead, and makes in a process of
its own whichever of the next ranges nobody else is making.
"""

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from distrain.data.shards.manifest import MANIFEST
from distrain.data.workers import BackgroundWorker
from distrain.errors import DataError
from distrain.fault.page import page

POLL_S = 0.05
AHEAD = 2
"""Ranges made before they are asked for."""

log = logging.getLogger(__name__)


class MakeRange(Protocol):
    """Makes the shards of one range; can be sent to another process."""

    def __call__(self, number: int) -> None:
        """Write the folder of the range, whole or not at all."""
        ...

    def folder(self, number: int) -> Path:
        """Return where the range's shards are, or will be: a folder with a manifest."""
        ...

    def title(self, number: int) -> str:
        """Name the range in messages."""
        ...


@dataclass(frozen=True)
class Patience:
    """The time that a rank waits for a range.

    Args:
        warning_s: A longer wait is logged, with what is waited for.
        deadline_s: A longer wait is an error; below the timeout of the collectives.
    """

    warning_s: float = 30.0
    deadline_s: float = 300.0


@dataclass(frozen=True)
class MakeJob:
    """Makes a range, unless another process does; a job for ``BackgroundWorker``."""

    make: MakeRange
    number: int

    @property
    def title(self) -> str:
        """See ``workers.Job``."""
        return f"tokenizing {self.make.title(self.number)}"

    def run(self) -> bool:
        """Make the range unless another process does; return whether it was made here."""
        lock = _try_lock(self.make.folder(self.number), "lock")
        if lock is None:
            return False
        try:
            # Under the lock, for its last holder may have made it.
            if is_made(self.make, self.number):
                return False
            self.make(self.number)
        finally:
            os.close(lock)
        return True


class RangeShards:
    """The ranges of one source in the order in which a run needs them.

    Args:
        make: Makes one.
        order: The numbers of all ranges, in that order.
        ahead: Ranges to be made before they are asked for.
    """

    def __init__(
        self, make: MakeRange, order: Sequence[int], *, ahead: int = AHEAD, patience: Patience
    ) -> None:
        self.make = make
        self.order = tuple(order)
        self.ahead = ahead
        self.patience = patience
        self._next = 0
        """Place in the order of the first range that nobody has asked for."""
        self._worker = BackgroundWorker()
        self._wake = threading.Event()
        self._closed = False
        self._errors: dict[int, Exception] = {}
        self._thread: threading.Thread | None = None

    def wait_for(self, place: int) -> Path:
        """Return the folder of the range at ``place`` in the order, once it is made.

        Raises:
            DataError: It cannot be made, or took longer than the deadline.
        """
        number = self.order[place]
        self._errors.pop(number, None)  # of an attempt ahead; now that it is needed, once more
        self._next = max(self._next, place)
        if self._unmade():
            self._start()
        self._wake.set()
        # For the files and not for our own worker: another rank may be the one that makes them.
        self._wait(number, lambda: is_made(self.make, number))
        self._next = max(self._next, place + 1)
        return self.make.folder(number)

    def close(self) -> None:
        """Stop making ranges, and waiting for them."""
        self._closed = True
        self._wake.set()
        self._worker.close()
        if self._thread is not None:
            self._thread.join()

    def _unmade(self) -> tuple[int, ...]:
        numbers = self.order[self._next : self._next + 1 + self.ahead]
        return tuple(
            number
            for number in numbers
            if number not in self._errors and not is_made(self.make, number)
        )

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._make_ahead, name="ranges", daemon=True)
            self._thread.start()

    def _make_ahead(self) -> None:
        while not self._closed:
            numbers = self._unmade()
            if not any(self._try_to_make(number) for number in numbers):
                # Nothing to do, or all in other hands, who may die: look again soon.
                self._wake.wait(4 * POLL_S if numbers else None)
                self._wake.clear()

    def _try_to_make(self, number: int) -> bool:
        try:
            return self._make(number)
        except Exception as error:  # noqa: BLE001  (raised where the range is waited for)
            self._errors[number] = error
            return False

    def _make(self, number: int) -> bool:
        """Make a range in the worker, unless another rank has claimed it.

        The claim keeps the other ranks of a node from starting a process each. It is not the lock:
        when this rank dies, its worker finishes the range, and holds the lock until then.
        """
        claim = _try_lock(self.make.folder(number), "claim")
        if claim is None:
            return False
        try:
            return not is_made(self.make, number) and self._worker.run(MakeJob(self.make, number))
        finally:
            os.close(claim)

    def _wait(self, number: int, is_done: Callable[[], bool]) -> None:
        started = time.monotonic()
        warn_at = self.patience.warning_s
        while not is_done():
            if self._closed:
                raise RuntimeError(f"closed while {self.make.title(number)} was waited for")
            # Of the attempt that was made for this wait: older ones were dropped when it began.
            if number in self._errors:
                raise self._errors[number]
            waited = time.monotonic() - started
            if waited > self.patience.deadline_s:
                raise DataError(
                    self.make.title(number),
                    f"no tokens after {waited:.0f} s",
                    "its tokens, made here or by another process that holds its lock",
                    "See whether the source answers, lower data.range_bytes of the prepare "
                    "stage, or raise the reading stage's data.cache.stall_deadline.",
                )
            if waited > warn_at:
                log.warning("waiting for %s for %.0f s", self.make.title(number), waited)
                warn_at *= 2
            page.mark_fetch()
            # Polled: a process of another rank cannot wake this one.
            time.sleep(POLL_S)


def is_made(make: MakeRange, number: int) -> bool:
    """Return whether a range's shards are there: the manifest is written last."""
    return (make.folder(number) / MANIFEST).exists()


def _try_lock(folder: Path, kind: str) -> int | None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the folder, which comes by renaming: a lock inside it would vanish with what is
    # replaced.
    lock = os.open(folder.with_name(f".{folder.name}.{kind}"), os.O_CREAT | os.O_RDWR, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock
