"""The ranks of one attempt on one node: forked by a server, or started cold where there is none."""

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from distrain.runs.parent import dying_with
from distrain.runs.progress_page import stat_fields
from distrain.runs.rank_env import STORE_FD
from launcher.backends.fork_server import ForkServer, RankOrder
from launcher.backends.processes import code_in_words
from launcher.backends.rank_logs import JoinedLogs, RankLog
from launcher.watch.logs import first_failure

LOOK_S = 0.1
"""Between two looks at what ranks have written."""
LAST_WORDS_S = 2.0
"""How long ranks may take to end by themselves after one of them has failed with a message of its
own. Where one was killed, the others can say nothing but that it is gone."""
IMPORT_S = 1800.0
"""How long a fork server may import before its first answer; it is no rank, and has no page."""
UNKILLABLE_S = 30.0
"""How long a rank may take to end of SIGKILL; one that waits for a device in the kernel may never.
A rank gives back tens of gigabytes within seconds."""
EARLY_S = 10.0
"""How long a rank may go on after another one has ended well; they end together."""


@dataclass
class _Rank:
    """One process of the attempt."""

    name: str
    """Empty if it is alone."""
    pid: int
    descriptor: int
    code: int | None = None
    has_ended: bool = False

    @property
    def end(self) -> str:
        """How it ended, in words."""
        words = "ended with the fork server" if self.code is None else code_in_words(self.code)
        return f"{self.name}: {words}" if self.name else words


@dataclass(frozen=True)
class RanksToStart:
    """What one attempt starts on this node."""

    orders: Sequence[RankOrder]
    cold: Sequence[str]
    """The command of a rank where none can be forked."""
    numbers: Sequence[int | None]
    """Of the ranks; ``None``: it is alone."""
    log: Path | None
    """Where their lines come together; ``None``: where this process writes."""
    store: socket.socket | None = None
    """Where the ranks meet, if the first of them is here. Closed once it has started."""
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        names = ["" if number is None else f"rank {number}" for number in self.numbers]
        object.__setattr__(self, "names", names)


class ForkedRanks:
    """The ranks of an attempt on this node (``supervise.Processes``).

    The first that fails ends the others, and is the one that is named.

    Args:
        wanted: What is started.
        server: Who forks them.
        say: Shows a line to the user: why they start cold, if they do.
    """

    is_unkillable = False
    """Whether one of them does not end: then only another node can go on."""

    def __init__(
        self, wanted: RanksToStart, server: ForkServer, say: Callable[[str], None]
    ) -> None:
        self._wanted = wanted
        self._server = server
        self._say = say
        self._cold: list[subprocess.Popen[bytes]] = []
        self._ranks: list[_Rank] = []
        self._failed: _Rank | None = None
        self._why = ""
        self._deadline = float("inf")
        self._begins_by = time.monotonic() + IMPORT_S
        self._gone_by = float("inf")
        self._is_killed = False
        self._is_closed = False
        self._poll = select.poll()
        for order in wanted.orders:
            order.output.parent.mkdir(parents=True, exist_ok=True)
            order.output.touch()
        tails = [
            RankLog(order.output, number)
            for order, number in zip(wanted.orders, wanted.numbers, strict=True)
            if order.output != wanted.log
        ]
        self._logs = JoinedLogs(tails, wanted.log, say)
        server.ask(wanted.orders, wanted.store)
        self._poll.register(server, select.POLLIN)

    @property
    def code(self) -> int | None:
        """Exit code of the first that failed, negative for a signal; 0 once all ended well."""
        if self._failed is not None:
            return self._failed.code if self._failed.code else 1
        if self._why:
            return 1
        return 0 if self._ranks and all(rank.code == 0 for rank in self._ranks) else None

    @property
    def end(self) -> str:
        """How they ended, in words."""
        if self._why:
            return self._why
        if self._failed is not None:
            return self._failed.end
        if not self._ranks:
            return "killed before it began" if self._is_killed else "not started"
        return "exit code 0"

    def wait(self, timeout_s: float) -> bool:
        """Sleep until all have ended or ``timeout_s`` passes; tell whether they ended."""
        until = time.monotonic() + timeout_s
        while not self._look(min(until, time.monotonic() + LOOK_S)):
            if time.monotonic() >= until:
                return False
        return True

    def kill(self) -> None:
        """End them at once."""
        self._is_killed = True
        if not self._ranks:  # it may be importing, and forks nobody any more
            self._server.close()
        self._kill_ranks()

    def close(self) -> None:
        """Leave none behind, and nothing unread."""
        if self._is_closed:
            return
        self._is_closed = True
        if not self._ranks:
            self._server.close()
        self._kill_ranks()
        for rank in self._ranks:
            if not rank.has_ended:
                ends = select.poll()
                ends.register(rank.descriptor, select.POLLIN)
                if ends.poll(max(self._gone_by - time.monotonic(), 0) * 1000):
                    self._settle(rank)
                else:
                    self._abandon(rank)
            os.close(rank.descriptor)
        self._close_store()
        self._logs.pass_on(at_end=True)
        self._logs.close()

    def _look(self, until: float) -> bool:
        """Handle what happens until then, or the first of it; tell whether all is over."""
        if not self._ranks and (self._is_killed or self._is_late()):
            return True
        ready = {fd for fd, _ in self._poll.poll(max(until - time.monotonic(), 0) * 1000)}
        if not self._ranks:
            if ready:
                self._poll.unregister(self._server)
                self._begin()
            return False
        ended = [rank for rank in self._ranks if rank.descriptor in ready]
        for rank in ended:
            self._poll.unregister(rank.descriptor)
            self._settle(rank)
        # Of those that are found together, the one that was killed: the others only met that.
        for rank in sorted(ended, key=lambda rank: rank.code if rank.code is not None else -1):
            if rank.code != 0:
                self._fail(rank)
        self._logs.pass_on()
        left = [rank for rank in self._ranks if not rank.has_ended]
        if time.monotonic() > self._gone_by:
            for rank in left:
                self._poll.unregister(rank.descriptor)
                self._abandon(rank)
            left = []
        if not left:
            self._logs.pass_on(at_end=True)
            return True
        self._end_what_is_left(left)
        return False

    def _is_late(self) -> bool:
        if time.monotonic() > self._begins_by:
            self._why = (
                f"the fork server said nothing for {IMPORT_S:.0f} s, see {self._server.output}"
            )
        return bool(self._why)

    def _begin(self) -> None:
        """Take note of the ranks that were forked, or start them cold."""
        try:
            pids = self._server.pids()
        except OSError as error:
            self._say(f"no warm start: {error}; every process imports for itself")
            self._server.close()  # the next attempt gets another one; this holds the store, too
            pids = self._start_cold()
        for name, pid in zip(self._wanted.names, pids, strict=True):
            descriptor = os.pidfd_open(pid)
            self._ranks.append(_Rank(name, pid, descriptor))
            self._poll.register(descriptor, select.POLLIN)
        self._close_store()

    def _start_cold(self) -> list[int]:
        store = self._wanted.store
        for order in self._wanted.orders:
            env, inherited = dict(order.env), list[int]()
            if order.holds_store and store is not None:
                inherited.append(store.fileno())
                env[STORE_FD] = str(store.fileno())
            with order.output.open("ab") as output:
                self._cold.append(
                    subprocess.Popen(
                        self._wanted.cold,
                        env=env,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                        pass_fds=inherited,
                        preexec_fn=dying_with(os.getpid()),
                    )
                )
        return [process.pid for process in self._cold]

    def _settle(self, rank: _Rank) -> None:
        """Take note of the end of a rank."""
        cold = next((process for process in self._cold if process.pid == rank.pid), None)
        rank.code = self._server.reap(rank.pid) if cold is None else cold.wait()
        rank.has_ended = True
        if rank.code == 0 and self._deadline == float("inf"):
            self._deadline = time.monotonic() + EARLY_S

    def _abandon(self, rank: _Rank) -> None:
        """Count a rank as ended that does not end."""
        state = "?"
        with suppress(OSError, IndexError):
            state = stat_fields(rank.pid)[0]
        who = f"{rank.name} (pid {rank.pid})" if rank.name else f"process {rank.pid}"
        text = f"{who} cannot be killed, it waits in the kernel (state {state}); restart the node"
        self._why = f"{self.end}; {text}" if self._failed is not None or self._why else text
        self._say(text)
        rank.has_ended = self.is_unkillable = True

    def _fail(self, rank: _Rank) -> None:
        """End the others, if this is the first that failed."""
        if self._failed is not None:
            return
        self._failed = rank
        has_words = rank.code is not None and rank.code > 0
        self._deadline = time.monotonic() + (LAST_WORDS_S if has_words else 0)
        # They end together: one that left early broke the connections of the others.
        early = next((other for other in self._ranks if other.code == 0), None)
        if early is not None:
            self._why = f"{early.name}: exit code 0 while others went on; {rank.end}"
        if rank.name:
            self._logs.pass_on(at_end=True)
            self._logs.say(first_failure(rank.name, rank.end.partition(": ")[2]))

    def _end_what_is_left(self, left: Sequence[_Rank]) -> None:
        if time.monotonic() < self._deadline:
            return
        if self._failed is None:
            self._failed = next(rank for rank in self._ranks if rank.has_ended)
            names = ", ".join(rank.name for rank in left)
            self._why = f"{self._failed.end}, but {names} went on for {EARLY_S:.0f} s"
        self._deadline = float("inf")
        self._kill_ranks()

    def _kill_ranks(self) -> None:
        self._gone_by = min(self._gone_by, time.monotonic() + UNKILLABLE_S)
        for rank in self._ranks:
            if rank.has_ended:
                continue
            with suppress(ProcessLookupError):  # what it has started, too
                os.killpg(rank.pid, signal.SIGKILL)
            with suppress(ProcessLookupError):  # it may have had no group of its own yet
                signal.pidfd_send_signal(rank.descriptor, signal.SIGKILL)

    def _close_store(self) -> None:
        if self._wanted.store is not None:
            self._wanted.store.close()
