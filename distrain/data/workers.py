"""Local processes that work on ranges: started once, given one job at a time.

Threads would share one interpreter, and cleaning is Python. ``spawn``, because a fork of a process
that has threads (numpy, tokenizers, pyarrow) may inherit a lock that nobody will release.
"""

import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Generic, Literal, Protocol, Self, TypeVar

from distrain.fault.page import mark

ResultT_co = TypeVar("ResultT_co", covariant=True)
ResultT = TypeVar("ResultT")

log = logging.getLogger(__name__)


class Job(Protocol[ResultT_co]):
    """Something to do that can be sent to another process."""

    @property
    def title(self) -> str:
        """Name of the job and its range in messages: ``cleaning range 3 of web (a.txt)``."""
        ...

    def run(self) -> ResultT_co:
        """Do it; the same whichever process does, and however often."""
        ...


@dataclass
class _Worker(Generic[ResultT]):
    process: BaseProcess
    pipe: Connection
    number: int = -1
    """Of the job it has; -1: none."""


class WorkerPool:
    """Runs jobs in ``count`` processes; with one, or for one job, in this process.

    Args:
        count: Processes, at most.
        begin: Called in each process when it starts.
    """

    def __init__(self, count: int, begin: Callable[[], None] | None = None) -> None:
        self.count = count
        self._begin = begin
        self._workers: list[_Worker[Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.process.kill()  # what it was writing has no name yet
        for worker in workers:
            # Its pipe is left to the last reference: a thread may be about to read from it, and
            # would read from whatever is opened under the same number.
            worker.process.join()

    def run(self, jobs: Sequence[Job[ResultT]]) -> Iterator[tuple[int, ResultT]]:
        """Yield number and result of each job as it is finished, in any order.

        Raises:
            ChildProcessError: A worker died; the message names what it worked on.
            Exception: What a job raised; it is logged what it was about.
        """
        # A process that is started imports everything anew: not worth it for one job.
        if self.count == 1 or len(jobs) <= 1:
            for number, job in enumerate(jobs):
                try:
                    result = job.run()
                except Exception:
                    log.error("%s failed", job.title)  # noqa: TRY400  (the error itself is raised)
                    raise
                mark()
                yield number, result
            return
        yield from self._run_in_workers(jobs)

    def _run_in_workers(self, jobs: Sequence[Job[ResultT]]) -> Iterator[tuple[int, ResultT]]:
        waiting = deque(range(len(jobs)))
        while len(self._workers) < min(self.count, len(jobs)):
            self.add_worker()
        for worker in self._workers[: len(jobs)]:
            _give(worker, waiting, jobs)
        while busy := [worker for worker in self._workers if worker.number >= 0]:
            # For a death as well: a worker that is killed for its memory sends nothing.
            ready = wait([part for worker in busy for part in _signs_of_life(worker)])
            for worker in busy:
                if worker.pipe in ready or worker.process.sentinel in ready:
                    number = worker.number
                    result = _receive(worker, jobs[number])
                    _give(worker, waiting, jobs)
                    mark()
                    yield number, result

    def add_worker(self) -> "_Worker[Any]":
        """Start one more process."""
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=_serve, args=(theirs, self._begin), daemon=True)
        process.start()
        theirs.close()  # so that reading ours ends when the worker does
        worker: _Worker[Any] = _Worker(process, ours)
        self._workers.append(worker)
        return worker


def available_cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(setting: int | Literal["auto"]) -> int:
    """Return the number of processes that ``data.workers`` asks for."""
    return available_cpus() if setting == "auto" else setting


def _signs_of_life(worker: _Worker[Any]) -> tuple[Connection, int]:
    return worker.pipe, worker.process.sentinel


def _give(worker: _Worker[Any], waiting: deque[int], jobs: Sequence[Job[Any]]) -> None:
    worker.number = waiting.popleft() if waiting else -1
    if worker.number >= 0:
        try:
            worker.pipe.send(jobs[worker.number])
        except (BrokenPipeError, ConnectionResetError):
            raise _death_of(worker, jobs[worker.number]) from None


def _receive(worker: _Worker[ResultT], job: Job[ResultT]) -> ResultT:
    try:
        is_error, result = worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        raise _death_of(worker, job) from None
    if is_error:
        log.error("%s failed", job.title)
        raise result
    done: ResultT = result
    return done


def _death_of(worker: _Worker[Any], job: Job[Any]) -> ChildProcessError:
    # No DataError: the range may be sound, and a launcher tries again after an OSError.
    worker.process.join()
    code = worker.process.exitcode or 0
    how = f"signal {-code}, {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    hint = "; the system may have run out of memory: lower data.workers" if code == -9 else ""
    return ChildProcessError(f"a worker died ({how}) while {job.title}{hint}")


def _serve(pipe: Connection, begin: Callable[[], None] | None) -> None:
    """Body of a worker: jobs in, results or errors out, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    # One thread a process; read by libraries when they are first used.
    for name in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = "1"
    if begin is not None:
        begin()
    while True:
        try:
            job = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            pipe.send((False, job.run()))
        except Exception as error:  # noqa: BLE001  (it is raised in the parent)
            # Pickling keeps the message and loses the traceback.
            error.add_note("".join(traceback.format_exception(error)))
            _send_error(pipe, error)


def _send_error(pipe: Connection, error: Exception) -> None:
    try:
        pipe.send((True, error))
    except Exception:  # noqa: BLE001  (an error that cannot be sent still has a text)
        pipe.send((True, RuntimeError(f"{type(error).__name__}: {error}")))


class BackgroundWorker:
    """One process beside this one, for one thread that gives it one job after the other.

    It is started with the first job, and ends with this process.
    """

    def __init__(self) -> None:
        self._pool = WorkerPool(1)
        self._worker: _Worker[Any] | None = None
        self._lock = threading.Lock()
        self._closed = False

    def run(self, job: Job[ResultT]) -> ResultT:
        """Do a job there and wait for it; raises as ``WorkerPool.run`` does.

        Raises:
            RuntimeError: It was closed before.
        """
        worker = self._ready_worker()
        _give(worker, deque([0]), [job])
        result: ResultT = _receive(worker, job)
        return result

    def close(self) -> None:
        """End the process, whatever it does; from another thread than that of ``run``."""
        with self._lock:
            self._closed = True
            self._pool.__exit__(None, None, None)

    def _ready_worker(self) -> "_Worker[Any]":
        # Started under the lock: one that comes up while the pool is being closed would be killed
        # by nobody, and waited for.
        with self._lock:
            if self._closed:
                raise RuntimeError("the worker was closed")
            # One that died is replaced: the next range may be sound.
            if self._worker is None or not self._worker.process.is_alive():
                self._worker = self._pool.add_worker()
            return self._worker
