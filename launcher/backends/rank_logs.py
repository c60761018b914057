"""The files that ranks write to, and the log in which their lines come together."""

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from launcher.watch.logs import rank_prefix

LONGEST_BYTES = 1 << 13
"""A line that is longer is passed on in pieces."""
# What writes progress goes back to the begin of its line, maybe for hours. An end of what was read
# may be half of one.
LINE_END = re.compile(rb"\r\n|\n|(?<=[^\r\n])\r(?!\Z)")


class RankLog:
    """New whole lines of one rank's file, each with the rank before it.

    A file, not a pipe: a rank never waits for whoever reads it.
    """

    def __init__(self, path: Path, rank: int | None) -> None:
        self._prefix = b"" if rank is None else rank_prefix(rank).encode()
        self._file = path.open("rb")
        self._rest = b""

    def read(self, *, at_end: bool) -> bytes:
        """Return what was added; a short line without its end only ``at_end``."""
        *whole, self._rest = LINE_END.split(self._rest + self._file.read())
        if self._rest and (at_end or len(self._rest) > LONGEST_BYTES):
            whole.append(self._rest)
            self._rest = b""
        return b"".join(self._prefix + line.strip(b"\r") + b"\n" for line in whole)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class JoinedLogs:
    """Passes the lines of several ranks on to one log.

    Args:
        logs: Of the ranks.
        log: Where to; ``None``: where this process writes.
        say: Shows a line to the user: that some are missing there, once.
    """

    def __init__(
        self, logs: Sequence[RankLog], log: Path | None, say: Callable[[str], None]
    ) -> None:
        self._logs = logs
        self._output = os.dup(1) if log is None else _open_to_append(log)
        self._name = "the output" if log is None else str(log)
        self._say = say
        self._is_complete = True

    def pass_on(self, *, at_end: bool = False) -> None:
        """Write what came since the last call."""
        for log in self._logs:
            self._write(partial(log.read, at_end=at_end))

    def say(self, line: str) -> None:
        """Add a line of nobody's."""
        self._write(lambda: line.encode() + b"\n")

    def close(self) -> None:
        """Let go of all files."""
        for log in self._logs:
            log.close()
        os.close(self._output)

    def _write(self, read: Callable[[], bytes]) -> None:
        # A full disk, or a reader that is gone, ends no ranks: their own files have everything.
        try:
            data = read()
            while data:
                data = data[os.write(self._output, data) :]
        except OSError as error:
            if self._is_complete:
                self._is_complete = False
                with suppress(OSError):
                    self._say(
                        f"{self._name} lacks lines of ranks ({error.strerror}); "
                        "their own files have them"
                    )


def _open_to_append(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
