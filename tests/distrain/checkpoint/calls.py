"""Every call by which a process changes the disk: watched, and cut short at the k-th.

The process really dies (SIGKILL), in the middle of a write with half of it on disk.
"""

import builtins
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHANGING = ("fsync", "rename", "replace", "mkdir", "rmdir", "unlink", "remove")


class Calls:
    """Watches this process from ``install`` on; there is no way back.

    Args:
        kill_at: Number of the call after which the process dies, counted from 1; in a write,
            half of the bytes arrive. ``None``: watch only.
    """

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at = kill_at
        self.log: list[tuple[str, str]] = []
        """(call, path); for a rename the old path."""

    def install(self) -> None:
        real_open = io.open
        for name in CHANGING:
            setattr(os, name, self._watched(name, getattr(os, name)))

        def open_watched(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            stream = real_open(file, mode, *args, **kwargs)
            if not set(mode) & set("wxa+"):
                return stream
            self.count("create", str(file))
            return _Stream(stream, str(file), self)

        io.open = open_watched  # pathlib looks it up here
        builtins.open = open_watched

    def count(self, call: str, path: str) -> None:
        self.log.append((call, path))
        if self.is_last:
            os.kill(os.getpid(), signal.SIGKILL)

    @property
    def is_last(self) -> bool:
        return len(self.log) == self.kill_at

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: Any, *args: Any, **kwargs: Any) -> Any:
            is_open = isinstance(target, int)
            path = str(Path(f"/proc/self/fd/{target}").readlink()) if is_open else str(target)
            result = real(target, *args, **kwargs)
            self.count(name, path)
            return result

        return call


class _Stream:
    """A file open for writing whose writes are counted; the rest is its own."""

    def __init__(self, stream: Any, path: str, calls: Calls) -> None:
        self._stream = stream
        self._path = path
        self._calls = calls

    def write(self, data: Any) -> int:
        if len(self._calls.log) + 1 == self._calls.kill_at:
            self._stream.write(memoryview(data)[: len(data) // 2])
            self._stream.flush()
        else:
            self._stream.write(data)
        self._calls.count("write", self._path)
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stream.close()
