"""The files that ranks write to, and the log in which their lines come together."""

import os
from collections.abc import Sequence
from pathlib import Path

from launcher.watch.logs import rank_prefix


class RankLog:
    """New whole lines of one rank's file, each with the rank before it.

    A file, not a pipe: a rank never waits for whoever reads it.
    """

    def __init__(self, path: Path, rank: int | None) -> None:
        self._prefix = b"" if rank is None else rank_prefix(rank).encode()
        self._file = path.open("rb")
        self._rest = b""

    def read(self, *, at_end: bool) -> bytes:
        """Return what was added; a line without its end only ``at_end``."""
        *whole, self._rest = (self._rest + self._file.read()).split(b"\n")
        if at_end and self._rest:
            whole.append(self._rest)
            self._rest = b""
        return b"".join(self._prefix + line + b"\n" for line in whole)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class JoinedLogs:
    """Passes the lines of several ranks on to one log.

    Args:
        logs: Of the ranks.
        log: Where to; ``None``: where this process writes.
    """

    def __init__(self, logs: Sequence[RankLog], log: Path | None) -> None:
        self._logs = logs
        self._output = os.dup(1) if log is None else _open_to_append(log)

    def pass_on(self, *, at_end: bool = False) -> None:
        """Write what came since the last call."""
        for log in self._logs:
            _write(self._output, log.read(at_end=at_end))

    def say(self, line: str) -> None:
        """Add a line of nobody's."""
        _write(self._output, line.encode() + b"\n")

    def close(self) -> None:
        """Let go of all files."""
        for log in self._logs:
            log.close()
        os.close(self._output)


def _open_to_append(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
