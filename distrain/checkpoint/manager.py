"""The checkpoints of one stage: what the training loop talks to.

The loop waits only while its state is copied to the host; a thread writes the copy. That thread
has a gloo group of its own, because collectives of one group must come in the same order on
every rank. There are never two saves in flight.
"""

import errno
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrain.checkpoint.agreement import FailedError, agree, describe, on_first
from distrain.checkpoint.choosing import choose_newest_good, remove
from distrain.checkpoint.commit import Content, read_commit, read_extra
from distrain.checkpoint.content import join, sum_hashes
from distrain.checkpoint.dcp import load_entries
from distrain.checkpoint.layout import Name, committed
from distrain.checkpoint.retention import expired
from distrain.checkpoint.staging import Staging
from distrain.checkpoint.writing import Written, write_checkpoint
from distrain.errors import CheckpointError
from distrain.parallel.collectives import HostGroup
from distrain.parallel.global_tensor import State

logger = logging.getLogger(__name__)

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass
class _Save:
    """One save, from the call to its outcome."""

    step: int
    extra: Mapping[str, object]
    size_bytes: int
    blocked_s: float = 0.0
    """How long the loop waited for it."""
    write_s: float = 0.0
    thread: threading.Thread | None = None
    outcome: Written | FailedError | None = None


class CheckpointManager:
    """Saves and restores one stage's state. Making one is collective.

    Args:
        folder: The stage's ``checkpoints``; this run is its only writer.
        quarantine: Where damaged checkpoints go.
        keep_last: How many steps stay on disk.
        async_save: Write in the background.
        host: The ranks of the run.
        on_event: Called on rank 0, in the loop's thread, with a kind of ``EVENT_KINDS``
            (``checkpoint``, ``checkpoint_failed``, ``quarantined``) and its fields.
    """

    def __init__(
        self,
        folder: Path,
        quarantine: Path,
        *,
        keep_last: int,
        async_save: bool,
        host: HostGroup,
        on_event: Callable[[str, dict[str, Any]], None],
    ) -> None:
        self._folder = folder
        self._quarantine = quarantine
        self._keep_last = keep_last
        self._async_save = async_save
        self._host = host
        self._on_event = on_event
        self._background = HostGroup()
        self._staging = Staging()
        self._in_flight: _Save | None = None
        self._latest: tuple[int, Mapping[str, object]] | None = None
        self._content: Content | None = None
        self._good: set[Name] = set()

    def save(self, step: int, state: State, extra: Mapping[str, object]) -> None:
        """Save this moment; returns once ``state`` may change. Collective.

        A save still in flight is waited for first. A save that fails becomes an event, and
        training goes on.

        Args:
            step: The optimizer step that ``state`` follows.
            state: This rank's part.
            extra: JSON values that belong to the step, the same on every rank.
        """
        begun = time.monotonic()
        self.wait()
        save = _Save(step, extra, _size_bytes(state))
        self._in_flight = save
        if not self._async_save:
            self._write(save, state)
            save.blocked_s = time.monotonic() - begun
            self._settle(save)
            return
        staged = self._staging.copy(state)
        # A daemon: a process that fails elsewhere must not wait for ranks that are gone.
        save.thread = threading.Thread(
            target=self._write, args=(save, staged), name=f"save-{step}", daemon=True
        )
        save.thread.start()
        save.blocked_s = time.monotonic() - begun

    def save_and_wait(self, step: int, state: State, extra: Mapping[str, object]) -> Content:
        """Make sure that this moment is on disk; nothing is written if it is. Collective.

        Returns:
            The digest of what is on disk.

        Raises:
            CheckpointError: On every rank: it could not be saved; earlier checkpoints are intact.
        """
        begun = time.monotonic()
        self.wait()
        if self._latest == (step, extra):
            if self._content is None:  # committed by a version that took no digest
                self._content = join(agree(self._host, lambda: sum_hashes(state)))
            return self._content
        save = _Save(step, extra, _size_bytes(state))
        self._in_flight = save
        self._write(save, state)
        save.blocked_s = time.monotonic() - begun
        failure = self._settle(save)
        if failure is not None:
            raise self._save_error(save, failure)
        assert self._content is not None, "a save that did not fail has committed it"
        return self._content

    def poll(self) -> None:
        """Report a background save that has ended; call it at each step. Not collective."""
        save = self._in_flight
        if save is not None and save.thread is not None and not save.thread.is_alive():
            self._settle(save)

    def wait(self) -> None:
        """Wait for the save in flight and report how it ended."""
        save = self._in_flight
        if save is not None:
            self._settle(save)

    def restore(self, state: State) -> tuple[int, dict[str, Any]] | None:
        """Fill ``state`` from the newest whole checkpoint. Collective.

        Leftovers of a crash are removed, damaged checkpoints are moved to the quarantine.

        Returns:
            The step and what was saved with it as ``extra``; ``None`` when there is none.

        Raises:
            CheckpointError: On every rank: the newest whole one is that of another model, or
                the folder cannot be read.
        """
        self.wait()
        if self._async_save:
            self._staging.prepare(state)
        try:
            name = choose_newest_good(
                self._folder, self._quarantine, self._host, self._report_quarantined
            )
            if name is None:
                return None
            path = self._folder / str(name)
            commit, extra = on_first(self._host, lambda: (read_commit(path), read_extra(path)))
        except FailedError as failure:
            raise CheckpointError(
                str(self._folder),
                str(failure),
                "a folder that can be read and written",
                "Repair or free the file system, then run the same command again.",
            ) from failure
        load_entries(path, state, self._host.process_group)
        self._good = {name}
        self._latest = (name.step, extra)
        self._content = commit.content
        return name.step, extra

    def _write(self, save: _Save, state: State) -> None:
        """Write, commit and retire; runs in the background or, when asked to wait, in the loop."""
        host = self._background
        begun = time.monotonic()
        try:
            written = write_checkpoint(self._folder, save.step, state, save.extra, host)
            self._good.add(written.name)
            if host.rank == 0:
                self._retire()
            save.write_s = time.monotonic() - begun
            save.outcome = written
        except Exception as error:  # noqa: BLE001  (the end of a thread: nobody above would see it)
            save.outcome = describe(error)

    def _retire(self) -> None:
        for name in expired(committed(self._folder), self._good, self._keep_last):
            try:
                remove(self._folder, name)
            except OSError as error:
                logger.warning("checkpoint %s could not be removed: %s", name, error)

    def _settle(self, save: _Save) -> FailedError | None:
        """Take note of how a save ended, once."""
        if save.thread is not None:
            save.thread.join()
        self._in_flight = None
        outcome = save.outcome
        if isinstance(outcome, Written):
            self._latest = (save.step, save.extra)
            self._content = outcome.content
            self._report(
                "checkpoint",
                step=save.step,
                checkpoint=str(outcome.name),
                size_bytes=outcome.size_bytes,
                blocked_s=round(save.blocked_s, 4),
                write_s=round(save.write_s, 4),
            )
            return None
        failure = outcome or FailedError("the save was interrupted", None)
        logger.warning("checkpoint of step %s failed: %s", save.step, failure)
        self._report("checkpoint_failed", step=save.step, reason=str(failure))
        return failure

    def _report_quarantined(self, name: Name, reason: str) -> None:
        logger.warning("checkpoint %s is damaged and was put aside: %s", name, reason)
        self._report("quarantined", step=name.step, checkpoint=str(name), reason=reason)

    def _report(self, kind: str, **fields: object) -> None:
        if self._host.rank == 0:
            self._on_event(kind, fields)

    def _save_error(self, save: _Save, failure: FailedError) -> CheckpointError:
        since = f"step {self._latest[0]}" if self._latest else "the beginning"
        again = f"then run the same command again: it goes on from {since}."
        if failure.errno in FULL:
            return CheckpointError(
                str(self._folder),
                f"{failure} while saving step {save.step}",
                f"room for one checkpoint of {save.size_bytes / 1e6:.0f} MB",
                f"Free space or lower checkpoint.keep_last, {again}",
            )
        return CheckpointError(
            str(self._folder),
            f"{failure} while saving step {save.step}",
            "a folder that every rank can write",
            f"Remove the cause, {again}",
        )


def _size_bytes(state: State) -> int:
    return sum(math.prod(entry.shape) * entry.dtype.itemsize for entry in state.values())
