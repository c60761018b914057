"""Where the threads of a process are, as py-spy or Python's own fault handler writes it. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

HEAD = re.compile(r"^(?:Current thread|Thread) [0-9a-fA-Fx]+[^:\n]*:(?: \"(?P<name>[^\"]*)\")?$")
FAULTHANDLER = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.+)$')
PY_SPY = re.compile(r"^ +(?P<function>.+) \((?P<file>.+):(?P<line>\d+)\)$")
SAVER = "distrain/checkpoint/manager.py"
LOADER = "distrain/data/samples/loader.py"


@dataclass(frozen=True)
class Frame:
    """One call."""

    file: str
    line: int
    function: str

    @property
    def is_foreign(self) -> bool:
        """Whether it is code of Python or of an installed package, not of distrain or the user."""
        parts = PurePath(self.file).parts
        is_installed = "site-packages" in parts and "distrain" not in parts
        is_python = any(re.fullmatch(r"python3\.\d+t?", part) for part in parts[:-1])
        is_bare = (
            len(parts) == 1 and "<" not in self.file
        )  # py-spy's way to write the files of Python itself
        return is_installed or is_bare or (is_python and "site-packages" not in parts)

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


@dataclass(frozen=True)
class Stack:
    """The calls of one thread, the innermost first."""

    name: str
    frames: tuple[Frame, ...]

    def is_in(self, file: str) -> bool:
        """Whether one of the calls is in this file."""
        return any(frame.file.endswith(file) for frame in self.frames)

    @property
    def line(self) -> str:
        """The innermost line that is not of a library, or the innermost one at all."""
        own = (frame for frame in self.frames if not frame.is_foreign)
        frame = next(own, self.frames[0] if self.frames else None)
        return "" if frame is None else str(frame)


def read_stacks(text: str) -> list[Stack]:
    """Take apart the output of either; the main thread is the last one."""
    found: list[tuple[str, list[Frame]]] = []
    for line in text.splitlines():
        head = HEAD.match(line)
        if head is not None:
            found.append((head["name"] or "", []))
            continue
        frame = FAULTHANDLER.match(line) or PY_SPY.match(line)
        if frame is not None and found:
            found[-1][1].append(Frame(frame["file"], int(frame["line"]), frame["function"]))
    stacks = [Stack(name, tuple(frames)) for name, frames in found]
    # py-spy names threads and writes the main one first.
    return sorted(stacks, key=lambda stack: stack.name == "MainThread")


def line_of_save(stacks: Sequence[Stack]) -> str:
    """Return where the thread that saves is; empty if there is none."""
    return next((stack.line for stack in stacks[:-1] if stack.is_in(SAVER)), "")


def line_of_loop(stacks: Sequence[Stack], phase: str) -> str:
    """Return where the loop is, or the thread that makes the batch which the loop waits for."""
    if not stacks:
        return ""
    main = stacks[-1]
    if phase == "data" and main.is_in(LOADER):
        return next((stack.line for stack in stacks[:-1] if stack.is_in(LOADER)), main.line)
    return main.line
