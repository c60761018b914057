"""What the processes of a stage wrote: which file holds it, and which lines are asked for."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from distrain.errors import NotFoundError
from distrain.runs.certificates import certificate_text
from distrain.runs.folder import RunFolder, StageFolder
from distrain.runs.incidents import describe_incident, read_incidents

EXCERPT_LINES = 20
FIRST_FAILURE = re.compile(
    r"^first to fail: rank (\d+) \("
    r"|Root Cause \(first observed failure\):.*?^\s*rank\s*:\s*(\d+)",
    re.MULTILINE | re.DOTALL,
)
"""As ``first_failure`` writes it; or in torchrun's summary of failures, of whoever uses that."""
RANK_OF_LINE = re.compile(r"\[rank (\d+)\] ")
"""As ``rank_prefix`` puts it before each line of several processes."""


def rank_prefix(rank: int) -> str:
    """Return what stands before each line of a rank, where it is not alone."""
    return f"[rank {rank}] "


def first_failure(rank: str, how: str) -> str:
    """Return the line of a log that names the rank that failed first, as in ``rank 1``."""
    return f"first to fail: {rank} ({how})"


def attempt_logs(stage: StageFolder) -> list[Path]:
    """Return the log files of a stage, oldest first; a Slurm job's is one of them."""
    files = [path for path in stage.logs.glob("*.log") if path.is_file()]
    return sorted(files, key=lambda path: (path.stat().st_mtime_ns, path.name))


def find_log(run: RunFolder, stages: Sequence[str], stage: str | None, attempt: int | None) -> Path:
    """Return the log of an attempt; by default the latest attempt of the latest stage.

    Raises:
        NotFoundError: Nothing was logged, or not by that attempt.
    """
    names = [stage] if stage else list(stages)
    found = [path for name in names for path in attempt_logs(run.stage(name))]
    if attempt is not None:
        wanted = run.stage(names[-1]).log(attempt).name
        found = [path for path in found if path.name == wanted]
    if not found:
        which = f"attempt {attempt}" if attempt is not None else "logs"
        raise NotFoundError(
            f"{which} of {stage or 'any stage'} in {run.root}",
            "nothing",
            "a stage that was started: " + ", ".join(stages),
            f"See `distrain status {run.root.name}` for stages and attempts.",
        )
    return max(found, key=lambda path: path.stat().st_mtime_ns)


def lines_of_rank(lines: Sequence[str], rank: int | None) -> list[str]:
    """Return the lines of one rank; of all ranks, and of what started them, for ``None``.

    A process that is alone writes no rank before its lines; it is rank 0.
    """
    if rank is None:
        return list(lines)
    found = [(line, RANK_OF_LINE.match(line)) for line in lines]
    if rank == 0 and not any(match for _, match in found):
        return list(lines)
    return [line for line, match in found if match is not None and int(match[1]) == rank]


def read_lines(path: Path, rank: int | None) -> list[str]:
    """Read a log, or the lines of one rank in it.

    Raises:
        NotFoundError: No line is of that rank.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found = lines_of_rank(lines, rank)
    if lines and not found:
        ranks = sorted({int(match[1]) for line in lines if (match := RANK_OF_LINE.match(line))})
        raise NotFoundError(
            f"rank {rank} in {path}",
            "no line of it",
            "one of: " + (", ".join(map(str, ranks)) or "0"),
            "Name a rank that wrote there, or leave out --rank.",
        )
    return found


class LogTail:
    """New whole lines of a growing log, and of the one that takes its place.

    Args:
        find: Returns the log that is written now: another attempt begins another file.
    """

    def __init__(self, find: Callable[[], Path]) -> None:
        self._find = find
        self.path = find()
        self._offset = self.path.stat().st_size
        self._rest = b""

    def poll(self, *, at_end: bool = False) -> Iterator[str]:
        """Yield the lines since the last call; a line without its end only ``at_end``.

        ``path`` is the file that a line was read from.
        """
        while True:
            yield from self._new_lines()
            newest = self._find()
            if newest == self.path:
                break
            yield from self._unfinished()
            self.path, self._offset = newest, 0
        if at_end:
            yield from self._unfinished()

    def _new_lines(self) -> Iterator[str]:
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        yield from (line.decode(errors="replace") for line in whole)

    def _unfinished(self) -> Iterator[str]:
        if self._rest:
            yield self._rest.decode(errors="replace")
        self._rest = b""


def found_of(stage: StageFolder) -> list[str]:
    """Say of each time that ranks had come to a halt who, where and why; and of the last resume."""
    certificate = certificate_text(stage)
    incidents = [
        f"incident {found['number']}: {describe_incident(found)}; {found['why']}; stacks in "
        f"{stage.incident(found['number']).parent}"
        for found in read_incidents(stage)
    ]
    return [*incidents, *([] if certificate is None else [certificate])]


def failure_excerpt(text: str, count: int = EXCERPT_LINES) -> str:
    """Return the last lines of the rank that failed first, or of the only process."""
    lines = text.splitlines()
    first = FIRST_FAILURE.search(text)
    if first is not None:
        prefix = rank_prefix(int(first[1] or first[2]))
        own = [line for line in lines if line.startswith(prefix)]
        lines = own or lines
    return "\n".join(lines[-count:])
