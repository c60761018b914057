"""A sink in a thread of its own, behind a bounded queue, so that it cannot hold up training."""

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from distrain.runs.records import Record

logger = logging.getLogger(__name__)

QUEUE_LENGTH = 4096
"""Records waiting at most; an import of wandb takes some seconds, a step may take milliseconds."""
CLOSE_TIMEOUT_S = 10.0


class Writer(Protocol):
    """What takes records; all its methods are called in the sink's thread."""

    def write(self, record: Record) -> None:
        """Take one record of ``metrics.jsonl``."""

    def close(self) -> None:
        """Bring everything to rest."""


@dataclass(frozen=True)
class SinkRun:
    """Which run a sink copies."""

    name: str
    stage: str
    root: Path
    """The run folder."""
    run_id: str
    """The same for every attempt of the stage, so that a resumed run goes on in its copy."""


OpenWriter = Callable[[SinkRun, Any], Writer]
"""Opens a writer for a run, given its section of ``logging``; it imports what it needs."""


class BackgroundSink:
    """Hands records to a writer in a daemon thread; drops and counts them when it cannot.

    Args:
        name: Of the sink, for messages.
        open_writer: Called in the thread: importing and connecting may be slow too.
        on_failure: Called at most once, with the reason, when the writer raises or falls so far
            behind that a record is dropped. It may be called from the sink's thread.
        queue_length: Records that may wait.
    """

    def __init__(
        self,
        name: str,
        open_writer: Callable[[], Writer],
        on_failure: Callable[[str], None],
        queue_length: int = QUEUE_LENGTH,
    ) -> None:
        self.name = name
        self.dropped = 0
        self._open_writer = open_writer
        self._on_failure = on_failure
        self._failed = threading.Lock()  # taken by the first failure, never released
        self._broken = threading.Event()
        self._queue: queue.Queue[Record | None] = queue.Queue(queue_length)
        self._thread = threading.Thread(target=self._work, name=f"sink-{name}", daemon=True)
        self._thread.start()

    def write(self, record: Record) -> None:
        """Queue one record; return at once, whatever the writer does."""
        if self._broken.is_set():
            self.dropped += 1
            return
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1
            self._fail(f"no record taken while {self._queue.maxsize} were waiting")

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Let the writer finish, for at most ``timeout_s``; the thread dies with the process."""
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            self._fail("queue still full at the end")
            return
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self.dropped += max(self._queue.qsize() - 1, 0)  # less the end mark
            self._fail(f"still busy {timeout_s:g} s after the end")

    def _work(self) -> None:
        # A process boundary in all but name: whatever a foreign library raises ends here.
        try:
            writer = self._open_writer()
            while (record := self._queue.get()) is not None:
                writer.write(record)
            writer.close()
        except Exception as error:  # noqa: BLE001
            self._broken.set()
            self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, reason: str) -> None:
        if self._failed.acquire(blocking=False):
            logger.warning("sink %s: %s; training goes on without it", self.name, reason)
            self._on_failure(reason)
