"""What the processes of a stage wrote: which file holds it, and which lines tell why it failed."""

import re
from collections.abc import Sequence
from pathlib import Path

from distrain.errors import NotFoundError
from distrain.runs.folder import RunFolder, StageFolder

EXCERPT_LINES = 20
FIRST_FAILURE = re.compile(
    r"Root Cause \(first observed failure\):.*?^\s*rank\s*:\s*(\d+)", re.MULTILINE | re.DOTALL
)
"""In torchrun's summary of failures."""


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


def failure_excerpt(text: str, count: int = EXCERPT_LINES) -> str:
    """Return the last lines of the rank that failed first, or of the only process."""
    lines = text.splitlines()
    first = FIRST_FAILURE.search(text)
    if first is not None:
        prefix = f"[rank {first[1]}] "
        own = [line for line in lines if line.startswith(prefix)]
        lines = own or lines
    return "\n".join(lines[-count:])
