"""Turn signals of the launcher into requests in the run folder: save and end, then kill."""

import os
import signal
from types import FrameType
from typing import Self

from distrain.runs.folder import RunFolder

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Interruptions:
    """While open, the first signal asks the run to save and end, the second to be killed.

    The request is a file, because torchrun dies of SIGUSR1 without telling its workers.

    Args:
        run: Which is asked; ``None``: signals are only counted, where another process asks.
    """

    def __init__(self, run: RunFolder | None) -> None:
        self._run = run
        self._before: dict[int, signal.Handlers] = {}
        self.count = 0
        """Signals that came in."""

    @property
    def kill(self) -> bool:
        """Whether to kill the run without waiting for its checkpoint."""
        return self.count > 1

    def __enter__(self) -> Self:
        for number in SIGNALS:
            if signal.getsignal(number) is signal.SIG_IGN:
                continue  # as under nohup
            self._before[number] = signal.signal(number, self._on_signal)  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self._run is None:
            return
        if self.count > 1:
            _tell("killing the run")
            return
        # The folder may be missing: a signal can come before the first attempt has made it.
        self._run.control.mkdir(parents=True, exist_ok=True)
        self._run.yield_.touch()
        _tell("asked the run to save and stop; a second signal kills it")


def _tell(text: str) -> None:
    os.write(2, f"\n{text}\n".encode())  # a stream may be in the middle of a write


def clear_wishes(run: RunFolder) -> None:
    """Remove the requests that were made of an earlier start."""
    for wish in (run.stop, run.yield_, run.save):
        wish.unlink(missing_ok=True)
