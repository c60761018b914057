"""What somebody wants of a running job: save, yield the machine, or stop.

A wish is a file in the run's ``control`` folder (written by ``distrain stop``, a job's supervisor
or a colleague) or a signal to any process of the job. The ranks agree on the heaviest, and act
on it after the same step.
"""

import signal
from enum import IntEnum
from types import FrameType

from distrain.runs.folder import RunFolder


class Wish(IntEnum):
    """Ordered by weight: of two wishes the larger one is granted."""

    NONE = 0
    SAVE = 1
    """Save, go on."""
    YIELD = 2
    """Save, end, ask to be started again."""
    STOP = 3
    """Save, end, stay ended."""

    @property
    def ends(self) -> bool:
        """Whether the job ends after it."""
        return self >= Wish.YIELD


class Wishes:
    """Collects the wishes that this rank of a job knows of.

    Signals set a flag only: what they ask for happens between two steps, on all ranks.
    """

    def __init__(self, run: RunFolder, rank: int) -> None:
        self._run = run
        self._rank = rank
        self._signalled = False

    def listen(self) -> None:
        """Turn SIGTERM and SIGUSR1 of this process into the wish to yield."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._on_signal)

    def own(self) -> Wish:
        """Return the heaviest wish that this rank knows of. Not collective.

        Only rank 0 looks at the files, so that a thousand ranks do not ask the file system.
        """
        wish = Wish.YIELD if self._signalled else Wish.NONE
        return max(wish, self._filed()) if self._rank == 0 else wish

    def granted(self, heaviest: float) -> Wish:
        """Return the wish that all ranks act on, which is the heaviest of them. Not collective."""
        wish = Wish(int(heaviest))
        if wish is Wish.SAVE and self._rank == 0:
            self._run.save.unlink(missing_ok=True)
        return wish

    def _filed(self) -> Wish:
        if self._run.stop.exists():
            return Wish.STOP
        if self._run.yield_.exists():
            return Wish.YIELD
        return Wish.SAVE if self._run.save.exists() else Wish.NONE

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
