"""Where each rank is: a page of memory that it writes at every mark, and its supervisor reads.

The page is a mapped file of 8-byte words, one file a rank. A mark is a few stores and no system
call (the clock is read in user space), so it costs about a microsecond; and whoever reads needs
nothing of the rank, not even that it runs: one that is stopped, or holds its interpreter's lock,
leaves its last mark.

Every word is stored whole. The time of a mark is stored before its phase: a reader in between sees
the old phase with the new time, as if that phase had just been marked, and can only wait too long.
"""

import mmap
import os
import signal
import socket
import threading
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PAGES = "DISTRAIN_PAGES"
"""Environment variable: folder of the pages of this node's ranks, of one start."""
WATCHDOG = "DISTRAIN_WATCHDOG"
"""Environment variable: ``launch.watchdog`` for supervisors, where it is not the default."""
FAULTS = "DISTRAIN_FAULTS"
"""Environment variable: file of faults that ranks bring upon themselves; see ``planned_faults``.
Here, so that a rank without it imports nothing for it."""
STACK_SIGNAL = signal.SIGQUIT
"""A rank that says so in its page writes its stacks when it gets this."""
STACKS = ".stacks"
"""Ending of the file, beside a rank's page, that takes them."""

PAGE_VERSION = 2

STEP_PHASES = ("data", "forward_backward", "update")
"""What every step goes through."""
PHASES = (
    "import",
    "rendezvous",
    "restore",  # also what is built before: data, model, engine
    *STEP_PHASES,
    "save",  # in the loop: copying the state, or all of a save that is waited for
    "write",  # in the thread that saves
    "validation",
    "export",
    "ended",  # the work is done; ranks wait for each other
    "prepare",
    "ranges",  # of prepare: workers make them
    "evaluate",
)
WORK_PHASES = ("prepare", "ranges", "evaluate", "export")
"""Without steps: of stages that do not train, and of what others measure after their last step."""
CODES = {name: code for code, name in enumerate(PHASES, start=1)}
"""0: none."""

_READING = (CODES["restore"], CODES["data"], *(CODES[phase] for phase in WORK_PHASES))

WAITS_FOR_RANKS, WAITS_FOR_THREAD, WAITS_FOR_FILES = 1, 2, 3

SUFFIX = ".page"
HOST_BYTES = 64

# Words of the head.
_VERSION, _PID, _STARTED, _RANK, _JUDGED, _DUMPS, _FIRST_STEP, _LOCAL = range(8)
# Words of a lane, from its first.
_PHASE, _STEP, _TIME, _COLLECTIVES, _WAITS = range(5)
_MAIN, _SAVE, _HOST, _COUNTS = 8, 16, 24, 32
_FAILURE = 13
"""Between the lanes; 0 in a page of a version that did not know it."""

FAILURES = ("refused", "raised", "met")
"""How a rank may say that it failed: by an error that another attempt would meet again; by any
other of its own; by one that says that another rank is gone."""

OCTAVES = 38
"""Of microseconds: up to three days."""
BUCKETS = 4 * OCTAVES
_LONGEST = _COUNTS + BUCKETS * (len(PHASES) + 1)
WORDS = _LONGEST + len(PHASES) + 1


def bucket_of(duration_ns: int) -> int:
    """Return where a duration is counted: in quarters of octaves of 1,024 ns."""
    units = duration_ns >> 10
    octave = units.bit_length()
    if octave < 3:
        return units
    return min(4 * octave + ((units >> (octave - 3)) & 3), BUCKETS - 1)


def edge_s(bucket: int) -> float:
    """Return the longest duration that is counted in a bucket, in seconds; 25 % above any in it."""
    octave, quarter = divmod(bucket, 4)
    units = bucket + 1 if octave < 3 else (5 + quarter) << (octave - 3)
    return units * 1024e-9


def started_ticks(pid: int | str = "self") -> int:
    """Return when a process began, in the system's ticks: with the id it names one process only.

    Raises:
        OSError: There is no such process.
    """
    return int(stat_fields(pid)[19])


def stat_fields(pid: int | str) -> list[str]:
    """Return ``/proc/<pid>/stat`` from the third field on, the state.

    Raises:
        OSError: There is no such process.
    """
    # The second is the program's name, which may hold anything.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


class PageWriter:
    """This rank's page; until it is opened, every mark does nothing.

    Marks may come from the loop and from the one thread that saves, which has a lane of its own.
    """

    def __init__(self) -> None:
        self._words: memoryview | None = None
        self._saver = 0
        self._learn_from = 1 << 62

    def open(self, folder: Path, rank: int, local_ranks: int = 1) -> None:
        """Begin the page of a rank in ``folder``; in a forked child it is the child's own.

        Args:
            folder: Of this start, on this node.
            rank: Of all ranks.
            local_ranks: How many ranks this node has.
        """
        path = folder / f"{rank}{SUFFIX}"
        path.unlink(missing_ok=True)  # not cut: another process may still have it mapped
        with path.open("x+b") as file:
            file.truncate(8 * WORDS)
            words = memoryview(mmap.mmap(file.fileno(), 8 * WORDS)).cast("Q")
        host = socket.gethostname().encode()[:HOST_BYTES]
        words.cast("B")[8 * _HOST : 8 * _HOST + len(host)] = host
        words[_PID], words[_STARTED], words[_RANK] = os.getpid(), started_ticks(), rank
        words[_LOCAL] = local_ranks
        words[_MAIN + _TIME] = time.monotonic_ns()
        words[_VERSION] = PAGE_VERSION  # last: from now on it is read
        self._words, self._saver, self._learn_from = words, 0, 1 << 62

    def say_failure(self, failure: str) -> None:
        """Note that this rank ends, and how: one of ``FAILURES``."""
        if self._words is not None:
            self._words[_MAIN + _TIME] = time.monotonic_ns()
            self._words[_FAILURE] = FAILURES.index(failure) + 1

    def close(self) -> None:
        """Mark nothing any more; the page stays."""
        self._words = None

    def be_judged(self, *, dumps: bool) -> None:
        """Say that every phase of this process is marked, and whether it dumps stacks if asked."""
        if self._words is not None:
            self._words[_JUDGED], self._words[_DUMPS] = 1, int(dumps)

    def begin_steps(self, first: int) -> None:
        """Begin to count how long phases take, but for the first two steps from ``first`` on.

        Those compile, allocate and meet; what they take says nothing of later ones.
        """
        self._learn_from = first + 2
        if self._words is not None:
            self._words[_FIRST_STEP] = first + 1  # 0: no step has begun

    def begin_work(self, phase: str) -> None:
        """Begin the phase of a stage without steps, and count from now on."""
        self.mark(phase)
        self._learn_from = 0

    def mark(self, phase: str | None = None, step: int | None = None) -> None:
        """Note that this rank goes on, in ``phase`` (the same if not given) of ``step``."""
        words = self._words
        if words is None:
            return
        lane = _SAVE if threading.get_ident() == self._saver else _MAIN
        self._note(words, lane)
        if step is not None:
            words[lane + _STEP] = step
        if phase is not None:
            words[lane + _PHASE] = CODES[phase]

    def mark_fetch(self) -> None:
        """Note from any thread that data are waited for, with a deadline of that wait's own.

        Nothing if the loop is elsewhere: what comes ahead of it says nothing of a step.
        """
        words = self._words
        if words is not None and words[_MAIN + _PHASE] in _READING:
            words[_MAIN + _TIME] = time.monotonic_ns()

    def mark_chunk(self) -> None:
        """Note from any thread that a part of a checkpoint was read or written."""
        words = self._words
        if words is not None:
            self._note(words, _SAVE if words[_SAVE + _PHASE] else _MAIN)

    def wait_begins(self, reason: int = WAITS_FOR_RANKS, *, is_collective: bool = True) -> None:
        """Note that this rank waits.

        Args:
            reason: For other ranks, for its own thread that saves, or for a file system.
            is_collective: Whether, if it waits for ranks, each of them comes by here.
        """
        words = self._words
        if words is None:
            return
        self.mark()
        lane = _SAVE if threading.get_ident() == self._saver else _MAIN
        if reason == WAITS_FOR_RANKS and is_collective:
            words[lane + _COLLECTIVES] += 1
        words[lane + _WAITS] = reason

    def wait_ends(self) -> None:
        """Note that the wait is over; how long it took is nothing that this rank did."""
        words = self._words
        if words is None:
            return
        lane = _SAVE if threading.get_ident() == self._saver else _MAIN
        words[lane + _TIME] = time.monotonic_ns()
        words[lane + _WAITS] = 0

    def save_begins(self, step: int) -> None:
        """Give the calling thread the lane of saves."""
        self._saver = threading.get_ident()
        words = self._words
        if words is not None:
            words[_SAVE + _TIME] = time.monotonic_ns()
            words[_SAVE + _STEP], words[_SAVE + _PHASE] = step, CODES["write"]

    def save_ends(self) -> None:
        """Take the lane of saves back from the calling thread."""
        if self._words is not None:
            self.mark()
            self._words[_SAVE + _PHASE] = 0
        self._saver = 0

    def _note(self, words: memoryview, lane: int) -> None:
        """Store the time, and count how long it is since the last mark."""
        now = time.monotonic_ns()
        code, passed = words[lane + _PHASE], now - words[lane + _TIME]
        if words[_MAIN + _STEP] >= self._learn_from:
            words[_COUNTS + BUCKETS * code + bucket_of(passed)] += 1
        if passed > words[_LONGEST + code]:  # first steps, too
            words[_LONGEST + code] = passed
        words[lane + _TIME] = now


@dataclass(frozen=True)
class Lane:
    """Where one of the two threads of a rank is that are watched."""

    phase: str
    step: int
    """Steps made before."""
    marked_ns: int
    """Of this machine's monotonic clock."""
    collectives: int
    """Begun so far."""
    waits: int
    """For ranks, for the thread that saves, for a file system, or 0: it works."""


@dataclass(frozen=True)
class Page:
    """What a page said when it was read."""

    rank: int
    pid: int
    started: int
    """See ``started_ticks``."""
    host: str
    judged: bool
    """Whether all that this process does is marked."""
    local_ranks: int
    """Of this node."""
    dumps: bool
    """Whether it writes its stacks when it is asked by signal."""
    first_step: int | None
    """Steps made before those of this attempt; ``None``: none has begun."""
    main: Lane
    save: Lane | None
    """``None``: nothing is saved in a thread."""
    failure: str
    """One of ``FAILURES``, as the rank said it; empty: it said nothing."""
    words: memoryview

    @cached_property
    def counts(self) -> dict[str, list[int]]:
        """How often each phase took how long from mark to mark, by ``bucket_of``."""
        return {
            phase: self.words[_COUNTS + BUCKETS * code : _COUNTS + BUCKETS * (code + 1)].tolist()
            for phase, code in CODES.items()
        }

    @cached_property
    def longest_s(self) -> dict[str, float]:
        """The longest time between two marks of each phase, first steps and all; 0: none."""
        return {phase: self.words[_LONGEST + code] / 1e9 for phase, code in CODES.items()}

    @property
    def has_made_a_step(self) -> bool:
        """Whether it has gone through each phase of a step at least once."""
        return self.first_step is not None and self.main.step > self.first_step

    @classmethod
    def missing(cls, rank: int, pid: int, host: str, started_ns: int) -> "Page":
        """Stand for a rank that has none: it is still before its first mark.

        Args:
            rank: Negative if that is not known either.
            pid: 0 if no process of it was found.
            host: Of the node.
            started_ns: When it was started, by the clock of the marks.
        """
        lane = Lane("import", 0, started_ns, 0, 0)
        words = memoryview(bytes(8 * WORDS)).cast("Q")
        try:
            started = started_ticks(pid)
        except OSError:
            started = 0
        return cls(rank, pid, started, host, False, 1, False, None, lane, None, "", words)

    @classmethod
    def read(cls, path: Path) -> "Page | None":
        """Read one; ``None`` if there is none of this version."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        words = memoryview(content).cast("Q") if len(content) == 8 * WORDS else memoryview(b"")
        if not len(words) or words[_VERSION] != PAGE_VERSION:
            return None
        host = content[8 * _HOST : 8 * _HOST + HOST_BYTES].rstrip(b"\0").decode(errors="replace")
        save, main = _lane(words, _SAVE), _lane(words, _MAIN)
        return cls(
            rank=words[_RANK],
            pid=words[_PID],
            started=words[_STARTED],
            host=host,
            judged=bool(words[_JUDGED]),
            local_ranks=words[_LOCAL],
            dumps=bool(words[_DUMPS]),
            first_step=words[_FIRST_STEP] - 1 if words[_FIRST_STEP] else None,
            main=main or Lane("import", 0, words[_MAIN + _TIME], 0, 0),
            save=save,
            failure=("", *FAILURES)[words[_FAILURE]],
            words=words,
        )


def read_pages(folder: Path) -> list[Page]:
    """Read the pages of all ranks of this node, in the order of ranks."""
    pages = (Page.read(path) for path in folder.glob(f"*{SUFFIX}"))
    return sorted((page for page in pages if page is not None), key=lambda page: page.rank)


def _lane(words: memoryview, first: int) -> Lane | None:
    code = words[first + _PHASE]
    if not 0 < code <= len(PHASES):
        return None
    return Lane(
        PHASES[code - 1],
        words[first + _STEP],
        words[first + _TIME],
        words[first + _COLLECTIVES],
        words[first + _WAITS],
    )
