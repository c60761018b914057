"""Child processes that die with the launcher, and waiting for them without polling the process."""

import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from distrain.runs.parent import dying_with


class Child:
    """One process: the stage itself, or what starts its ranks.

    It gets a session of its own, so that Ctrl-C in the terminal reaches the launcher only, and a
    parent-death signal, so that a killed launcher leaves no orphan. Start it from the main
    thread: the kernel counts the death of the starting *thread*. Without a ``log`` it writes where
    its parent does; ``inherited`` are descriptors that it may use.
    """

    is_lost = False
    is_unkillable = False

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        log: Path | None,
        inherited: Sequence[int] = (),
    ) -> None:
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
        with nullcontext() if log is None else log.open("ab") as output:
            self._process = subprocess.Popen(
                argv,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=None if output is None else subprocess.STDOUT,
                start_new_session=True,
                pass_fds=tuple(inherited),
                preexec_fn=dying_with(os.getpid()),
            )
        self._descriptor = os.pidfd_open(self._process.pid)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)

    @property
    def pid(self) -> int:
        """Process id, which is also that of its process group."""
        return self._process.pid

    def wait(self, timeout_s: float) -> bool:
        """Sleep until the process ends or ``timeout_s`` passes; tell whether it ended.

        Signal handlers of the launcher run in between.
        """
        if self._process.returncode is None and not self._poll.poll(timeout_s * 1000):
            return False
        self._process.wait()
        return True

    def kill(self) -> None:
        """Kill the process group at once; ranks die with who started them."""
        if self._process.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Leave no process behind, however the launcher got here. Again, it does nothing."""
        self.kill()
        self._process.wait()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def code(self) -> int | None:
        """Exit code, negative for a signal; ``None`` while it runs."""
        return self._process.returncode

    @property
    def end(self) -> str:
        """How the process ended, in words."""
        return code_in_words(self._process.returncode)


def code_in_words(code: int | None) -> str:
    """Say how a process ended, whose exit code is negative for a signal."""
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
