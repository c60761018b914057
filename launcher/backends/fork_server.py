"""The supervisor's side of a fork server: the process, and what is said to it.

What is said, and what it is for, is told in ``distrain/fork_server.py``.
"""

import json
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.backends.processes import Child

REAP_S = 40.0
"""How long a server may be busy, with one import at most, before it says how a rank ended: on a
slow file system a large library takes longer than ten seconds, and the server costs more. Who waits
gives no sign of life, so that it is less than a node may be silent (``beats.SILENCE_S``)."""


@dataclass(frozen=True)
class RankOrder:
    """One rank that is to be started."""

    env: Mapping[str, str]
    """The whole of it."""
    output: Path
    """File that it writes to."""
    holds_store: bool = False
    """Whether it is given the listening socket of the store."""


class ForkServer:
    """A fork server of this process.

    Args:
        argv: Its command, without the socket.
        env: Its environment; that of a rank comes with its order.
        output: File for what it says itself, such as warnings of what it imports.
    """

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], output: Path) -> None:
        self._socket, theirs = socket.socketpair()
        self._line = b""
        self.output = output
        with theirs:
            inherited = theirs.fileno()
            self._child = Child([*argv, f"--socket={inherited}"], env, output, (inherited,))

    @property
    def is_alive(self) -> bool:
        """Whether it may be asked."""
        return self._socket.fileno() >= 0 and not self._child.wait(0)

    @property
    def end(self) -> str:
        """How it ended, in words."""
        return self._child.end

    def fileno(self) -> int:
        """Return what is readable once it has answered, or has ended."""
        return self._socket.fileno()

    def ask(self, orders: Sequence[RankOrder], store: socket.socket | None) -> None:
        """Have ranks forked; ``pids`` tells when they are.

        Args:
            orders: One a rank.
            store: Listening socket for the rank that holds the store.
        """
        # What all have is said once: a socket takes only so much from who waits for no reader.
        common = dict(set.intersection(*(set(order.env.items()) for order in orders)))
        forks = [
            {
                "env": {name: value for name, value in o.env.items() if name not in common},
                "output": str(o.output),
                "store": o.holds_store,
            }
            for o in orders
        ]
        line = json.dumps({"env": common, "fork": forks}).encode() + b"\n"
        with suppress(OSError):  # it has ended: `pids` tells
            sent = socket.send_fds(self._socket, [line], [] if store is None else [store.fileno()])
            self._socket.sendall(line[sent:])

    def pids(self) -> list[int]:
        """Return the process ids of the ranks that were asked for; they may wait for it.

        Raises:
            OSError: None was forked; the text says why.
        """
        answer = self._read("pids", "error")
        if answer is None:
            raise OSError(f"the fork server ended ({self.end}), see {self.output}")
        if "error" in answer:
            raise OSError(f"the fork server found {answer['error']}")
        pids: list[int] = answer["pids"]
        return pids

    def reap(self, pid: int) -> int | None:
        """Return the exit code of a rank that has ended; ``None`` if nobody knows it any more."""
        try:
            self._socket.settimeout(REAP_S)
            self._socket.sendall(json.dumps({"reap": pid}).encode() + b"\n")
            while (answer := self._read("reaped")) is not None:
                if answer["reaped"] == pid:
                    self._socket.settimeout(None)
                    return int(answer["code"])
        except TimeoutError:
            self.close()  # an answer that comes late would be taken for that to the next question
        except OSError:  # it has ended
            pass
        return None

    def close(self) -> None:
        """End it, and with it what it forked."""
        self._child.close()
        self._socket.close()

    def _read(self, *kinds: str) -> dict[str, Any] | None:
        """Return the next answer of a kind; one that came too late for its question is dropped."""
        while (answer := self._read_one()) is not None:
            if any(kind in answer for kind in kinds):
                return answer
        return None

    def _read_one(self) -> dict[str, Any] | None:
        while b"\n" not in self._line:
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionResetError:  # it ended before it had read all
                data = b""
            if not data:
                self._child.wait(REAP_S)
                return None
            self._line += data
        text, _, self._line = self._line.partition(b"\n")
        answer: dict[str, Any] = json.loads(text)
        return answer
