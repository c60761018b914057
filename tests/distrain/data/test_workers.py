import os
import signal
import threading
import time
from dataclasses import dataclass

import pytest

from distrain.data.workers import BackgroundWorker, WorkerPool, available_cpus, worker_count
from distrain.errors import DataError


@dataclass(frozen=True)
class Square:
    number: int

    @property
    def title(self):
        return f"squaring {self.number}"

    def run(self):
        return self.number**2, os.getpid()


@dataclass(frozen=True)
class Fatal(Square):
    how: str = "kill"

    def run(self):
        if self.number == 3:
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "exit":
                os._exit(7)
            if self.how == "refuse":
                raise DataError("here", "a", "b", "Do c.")
            if self.how == "local":
                raise type("Local", (ValueError,), {})("cannot be pickled")
        return super().run()


@pytest.mark.parametrize(("count", "jobs"), [(1, 5), (2, 5), (4, 2), (3, 1), (2, 0)])
def test_every_job_is_done_once_whatever_the_number_of_workers(count, jobs):
    with WorkerPool(count) as pool:
        results = dict(pool.run([Square(number) for number in range(jobs)]))
    assert {number: square for number, (square, _) in results.items()} == {
        number: number**2 for number in range(jobs)
    }
    pids = {pid for _, pid in results.values()}
    assert (os.getpid() in pids) == (jobs > 0 and (count == 1 or jobs <= 1))
    assert len(pids) <= count


def test_the_same_processes_serve_several_rounds():
    with WorkerPool(2) as pool:
        rounds = [{pid for _, (_, pid) in pool.run([Square(1), Square(2)])} for _ in range(2)]
        alive = {worker.process.pid or 0 for worker in pool._workers}
    assert rounds[0] | rounds[1] <= alive
    for pid in alive:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("kill", ChildProcessError, r"died \(signal 9, SIGKILL\) while squaring 3; .*data.workers"),
        ("exit", ChildProcessError, r"died \(exit code 7\) while squaring 3$"),
        ("refuse", DataError, "here: found a; expected b. Do c."),
        ("local", RuntimeError, "Local: cannot be pickled"),
    ],
)
def test_death_and_error_of_a_worker_end_the_run_and_name_the_job(how, kind, message, caplog):
    started = time.monotonic()
    with pytest.raises(kind, match=message), WorkerPool(2) as pool:
        list(pool.run([Fatal(number, how) for number in range(20)]))
    assert time.monotonic() - started < 20
    assert ("squaring 3 failed" in caplog.text) == (kind is not ChildProcessError)


def test_a_failing_job_in_this_process_is_named_too(caplog):
    with pytest.raises(DataError), WorkerPool(1) as pool:
        list(pool.run([Fatal(3, "refuse")]))
    assert "squaring 3 failed" in caplog.text


def test_auto_is_one_worker_for_each_processor():
    assert worker_count("auto") == available_cpus() >= 1
    assert worker_count(3) == 3


@dataclass(frozen=True)
class Slow(Square):
    def run(self):
        time.sleep(120)


def test_closing_ends_the_worker_though_a_thread_asks_for_another_at_once():
    background, errors = BackgroundWorker(), []

    def ask_twice():
        # The second time in the moment in which the first worker dies.
        for number in range(2):
            try:
                background.run(Slow(number))
            except (RuntimeError, ChildProcessError) as error:
                errors.append(error)

    asking = threading.Thread(target=ask_twice, daemon=True)
    asking.start()
    while background._worker is None:
        time.sleep(0.001)
    closing = threading.Thread(target=background.close, daemon=True)
    closing.start()
    closing.join(20)
    asking.join(20)
    assert not closing.is_alive()
    assert not asking.is_alive()
    assert [str(error) for error in errors[1:]] == ["the worker was closed"]
