"""The checkpoints of one stage: what the training loop talks to.

The loop waits only while its state is copied to the host; a thread writes the copy. That thread
has a gloo group of its own, because collectives of one group must come in the same order on
every rank. There are never two saves in flight.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from distrain.checkpoint.agreement import FailedError, agree, describe, on_first
from distrain.checkpoint.choosing import choose_newest_good
from distrain.checkpoint.commit import Content, read_commit, read_extra
from distrain.checkpoint.content import join, sum_hashes
from distrain.checkpoint.deadline import Deadline
from distrain.checkpoint.keeping import KeptCheckpoints
from distrain.checkpoint.layout import Name, committed
from distrain.checkpoint.staging import Staging
from distrain.checkpoint.writing import Written, write_checkpoint
from distrain.config.section import format_duration
from distrain.config.training import CheckpointConfig
from distrain.errors import CheckpointError, DistrainError, PreflightError
from distrain.fault.page import page
from distrain.parallel.collectives import HostGroup
from distrain.parallel.global_tensor import State
from distrain.runs.durable import DISK_FULL
from distrain.runs.progress_page import WAITS_FOR_THREAD

logger = logging.getLogger(__name__)

MARGIN_S = 600.0
"""By which collectives of a save outlast its deadline, so that it is the deadline that ends it."""
LINGER_S = 2.0
"""By which other ranks outlast rank 0 at a deadline."""


FindFault = Callable[[int, Mapping[str, Any]], str | None]
"""(step, extra) -> what is wrong with it, in words."""


def no_fault(step: int, extra: Mapping[str, Any]) -> None:
    """Accept whatever was saved."""
    del step, extra


@dataclass
class _Save:
    """One save, from the call to its outcome."""

    step: int
    extra: Mapping[str, object]
    best: int | None
    size_bytes: int
    deadline: Deadline
    blocked_s: float = 0.0
    """How long the loop waited for it."""
    write_s: float = 0.0
    thread: threading.Thread | None = None
    outcome: Written | FailedError | None = None
    """The same on every rank; ``None`` until it is, and when a rank was lost."""
    lost: Exception | None = None
    """What this rank met when another was lost."""


class CheckpointManager:
    """Saves and restores one stage's state. Making one is collective.

    Args:
        folder: The stage's ``checkpoints``; this run is its only writer.
        quarantine: Where damaged checkpoints go.
        config: How to save, and how many steps stay on disk.
        host: The ranks of the run.
        on_event: Called on rank 0 with a kind of ``EVENT_KINDS`` (``checkpoint``,
            ``checkpoint_failed``, ``quarantined``) and its fields; in the loop's thread, unless a
            deadline passes.
        keep_steps: Steps whose checkpoints are never deleted, for later stages name them.
    """

    def __init__(
        self,
        folder: Path,
        quarantine: Path,
        *,
        config: CheckpointConfig,
        host: HostGroup,
        on_event: Callable[[str, dict[str, Any]], None],
        keep_steps: Collection[int] = (),
    ) -> None:
        self._folder = folder
        self._quarantine = quarantine
        self._config = config
        self._host = host
        self._on_event = on_event
        self.kept = KeptCheckpoints(folder, config.keep_last, frozenset(keep_steps))
        # A group of its own: the thread that saves and the loop would take each other's messages.
        self._background = HostGroup(timeout_s=config.save_deadline + MARGIN_S)
        self._staging = Staging()
        self._in_flight: _Save | None = None
        self._latest: tuple[int, Mapping[str, object]] | None = None
        self._content: Content | None = None
        self._num_failed = 0
        """Saves in a row."""

    def is_due(self, step: int) -> bool:
        """Return whether a checkpoint follows ``step`` optimizer steps: every ``save_steps``."""
        return step % self._config.save_steps == 0

    def save(
        self, step: int, state: State, extra: Mapping[str, object], best: int | None = None
    ) -> None:
        """Save this moment; returns once ``state`` may change. Collective.

        A save still in flight is waited for first. A save that fails becomes an event, and
        training goes on, unless too many failed before it.

        Args:
            step: The optimizer step that ``state`` follows.
            state: This rank's part.
            extra: JSON values that belong to the step, the same on every rank.
            best: The step whose checkpoint is the best so far, and stays; ``None``: none is.

        Raises:
            DistrainError: On every rank: ``checkpoint.max_failed_saves`` in a row have failed.
        """
        begun = time.monotonic()
        # Before the state is copied: the save in flight still reads the same buffers.
        self.wait()
        save = self._begin(step, state, extra, best)
        if self._config.async_save:
            self._write_in_background(save, state)
        else:
            self._write(save, state)
        save.blocked_s = time.monotonic() - begun
        if save.thread is None:
            self._settle(save)

    def save_and_wait(
        self, step: int, state: State, extra: Mapping[str, object], best: int | None = None
    ) -> Content:
        """Make sure that this moment is on disk; nothing is written if it is. Collective.

        Returns:
            The digest of what is on disk.

        Raises:
            DistrainError: On every rank: it could not be saved; earlier checkpoints are intact.
        """
        begun = time.monotonic()
        self.wait()
        # The last step is often one that was due anyway, and a stage that is stopped at once has
        # made none. ``extra`` too: after a resume with other settings its schedule is another.
        if self._latest == (step, extra):
            if self._content is None:  # committed by a version that took no digest
                self._content = join(agree(self._host, lambda: sum_hashes(state)))
            return self._content
        save = self._begin(step, state, extra, best)
        self._write(save, state)
        save.blocked_s = time.monotonic() - begun
        failure = self._settle(save)
        if failure is not None:
            raise self._save_error(save, failure)
        assert self._content is not None, "a save that did not fail has committed it"
        return self._content

    @property
    def content(self) -> Content | None:
        """Digests of the newest checkpoint saved or restored, if it was committed with any."""
        return self._content

    @property
    def is_saving(self) -> bool:
        """Whether this rank still writes a checkpoint in the background. Not collective."""
        save = self._in_flight
        return bool(save and save.thread and save.thread.is_alive())

    def poll(self, is_saving: bool) -> None:
        """Report a background save that has ended on all ranks; call it at each step.

        Args:
            is_saving: Whether it still goes on on any rank: the same on all, so that they take
                note of its end, or end by it, before the same step.

        Raises:
            DistrainError: As of ``save``.
        """
        if self._in_flight is not None and not is_saving:
            self._settle(self._in_flight)

    def wait(self) -> None:
        """Wait for the save in flight and report how it ended. Collective.

        Raises:
            DistrainError: As of ``save``.
        """
        if self._in_flight is not None:
            self._settle(self._in_flight)

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints that are there, whole or not. Collective."""
        return on_first(self._host, lambda: [name.step for name in committed(self._folder)])

    def restore(
        self,
        state: State,
        find_fault: FindFault = no_fault,
        refuse: Callable[[Mapping[str, Any]], None] = lambda _: None,
    ) -> tuple[int, dict[str, Any]] | None:
        """Fill ``state`` from the newest whole checkpoint. Collective.

        Leftovers of a crash are removed, damaged checkpoints are moved to the quarantine.

        Args:
            state: This rank's part, written in place.
            find_fault: Says what is wrong with the ``extra`` of a step, if it is not what was
                saved, or not to be gone on from; that checkpoint is put aside like a damaged one.
            refuse: Raises where a whole checkpoint with this ``extra`` is not one to go on from.

        Returns:
            The step and what was saved with it as ``extra``; ``None`` when there is none.

        Raises:
            CheckpointError: On every rank: the newest whole one is that of another model, or
                the folder cannot be read.
        """
        self.wait()
        if self._config.async_save:
            self._staging.prepare(state)
        try:
            name = choose_newest_good(
                self._folder,
                self._quarantine,
                self._host,
                self._report_quarantined,
                judge=lambda path: find_fault(read_commit(path).step, read_extra(path)),
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
        # Before the tensors: those of another optimizer or task would only be said not to fit.
        refuse(extra)
        from distrain.checkpoint.dcp import load_entries

        load_entries(path, state, self._host.process_group)
        self.kept.good = {name}
        self._latest = (name.step, extra)
        self._content = commit.content
        return name.step, extra

    def _begin(
        self, step: int, state: State, extra: Mapping[str, object], best: int | None
    ) -> _Save:
        # Imported once, and in this thread: the thread that writes would do it beside the loop,
        # which must never meet modules that are there in part.
        import_module("distrain.checkpoint.dcp")
        deadline = Deadline(self._config.save_deadline, lambda: self._report_hanging(step))
        self._in_flight = _Save(step, extra, best, _size_bytes(state), deadline)
        return self._in_flight

    def _write_in_background(self, save: _Save, state: State) -> None:
        staged: State = {}
        try:
            agree(self._host, lambda: staged.update(self._staging.copy(state)))
        except FailedError as failure:
            save.outcome = failure
            return
        # A daemon: a process that fails elsewhere must not wait for ranks that are gone.
        save.thread = threading.Thread(
            target=self._write_apart, args=(save, staged), name=f"save-{save.step}", daemon=True
        )
        save.thread.start()

    def _write_apart(self, save: _Save, state: State) -> None:
        page.save_begins(save.step)
        self._write(save, state)
        page.save_ends()

    def _write(self, save: _Save, state: State) -> None:
        """Write, commit and retire; runs in the background or, when asked to wait, in the loop."""
        begun = time.monotonic()
        try:
            save.outcome = self._write_once_or_twice(save, state)
        except (FailedError, DistrainError) as failure:  # agreed on by all ranks
            save.outcome = describe(failure)
        except Exception as error:  # noqa: BLE001  (the end of a thread: nobody above would see it)
            save.lost = error
        save.write_s = time.monotonic() - begun
        save.deadline.met()

    def _write_once_or_twice(self, save: _Save, state: State) -> Written:
        host = self._background
        try:
            written = write_checkpoint(self._folder, save.step, state, save.extra, host)
        except FailedError as failure:
            is_full = failure.errno in DISK_FULL
            if not is_full or not on_first(host, lambda: self.kept.make_room(save.best)):
                raise
            written = write_checkpoint(self._folder, save.step, state, save.extra, host)
        # First: only those known to be good count when ``retire`` chooses.
        self.kept.good.add(written.name)
        on_first(host, lambda: self.kept.retire(save.best))
        return written

    def best_product(self) -> dict[str, Any] | None:
        """Return step and digests of the best checkpoint, if one is kept. Collective."""
        return on_first(self._host, self.kept.best_product)

    def _settle(self, save: _Save) -> FailedError | None:
        """Take note of how a save ended, once; all ranks do so after the same step."""
        if save.thread is not None:
            page.wait_begins(WAITS_FOR_THREAD)
            save.thread.join()
            page.wait_ends()
        save.deadline.met()
        self._in_flight = None
        outcome = save.outcome
        if outcome is None:
            raise RuntimeError(
                f"the save of step {save.step} was cut off with another rank"
            ) from save.lost
        if isinstance(outcome, Written):
            self._num_failed = 0
            self._latest = (save.step, save.extra)
            self._content = outcome.content
            self._report(
                "checkpoint",
                step=save.step,
                checkpoint=str(outcome.name),
                size_bytes=outcome.size_bytes,
                blocked_s=round(save.blocked_s, 4),
                write_s=round(save.write_s, 4),
                **({"best": True} if save.best == save.step else {}),
            )
            return None
        self._num_failed += 1
        logger.warning("checkpoint of step %s failed: %s", save.step, outcome)
        self._report("checkpoint_failed", step=save.step, reason=str(outcome))
        if self._num_failed >= self._config.max_failed_saves:
            raise self._save_error(save, outcome)
        return outcome

    def _report_hanging(self, step: int) -> None:
        longest = format_duration(self._config.save_deadline)
        reason = f"not over after {longest} (checkpoint.save_deadline); the attempt ends"
        logger.error("checkpoint of step %s failed: %s", step, reason)
        self._report("checkpoint_failed", step=step, reason=reason)
        if self._host.rank != 0:
            time.sleep(LINGER_S)  # the event is rank 0's, whom the end of another would end first

    def _report_quarantined(self, name: Name, reason: str) -> None:
        logger.warning("checkpoint %s was put aside: %s", name, reason)
        self._report("quarantined", step=name.step, checkpoint=str(name), reason=reason)

    def _report(self, kind: str, **fields: object) -> None:
        if self._host.rank == 0:
            self._on_event(kind, fields)

    def _save_error(self, save: _Save, failure: FailedError) -> DistrainError:
        since = f"step {self._latest[0]}" if self._latest else "the beginning"
        again = f"then run the same command again: it goes on from {since}."
        found = f"{failure} while saving step {save.step}"
        if self._num_failed > 1:
            limit = f"checkpoint.max_failed_saves={self._config.max_failed_saves}"
            found += f", {self._num_failed} failed saves in a row ({limit})"
        if failure.errno in DISK_FULL:
            return PreflightError(
                str(self._folder),
                found,
                f"room for one checkpoint of {save.size_bytes / 1e6:.0f} MB",
                f"Free space, {again}",
            )
        return CheckpointError(
            str(self._folder),
            found,
            "a folder that every rank can write",
            f"Remove the cause, {again}",
        )


def _size_bytes(state: State) -> int:
    return sum(math.prod(entry.shape) * entry.dtype.itemsize for entry in state.values())
