"""How the attempts of a job ended, over all its starts: ``logs/slurm-<job>.attempts``.

One truth for the rule of restarts, whoever asks it. The first node's supervisor puts an attempt
down that another one follows within the job; the batch process the last of a start, before it asks
for a requeue. A start without a last one was killed, by a dead node or by Slurm.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from distrain.runs.folder import StageFolder
from distrain.runs.json_lines import read_records
from distrain.runs.records import append_record
from launcher.backends.restart import AttemptEnd


class Past:
    """The attempts of one job.

    Args:
        folder: Of the stage.
        job: Slurm's id.
    """

    def __init__(self, folder: StageFolder, job: str) -> None:
        self.path = folder.slurm_attempts(job)

    def forget(self) -> None:
        """Begin anew: Slurm gives a number again after years, or a reset."""
        self.path.unlink(missing_ok=True)

    def attempts(self) -> tuple[AttemptEnd, ...]:
        """Return all, oldest first."""
        return tuple(
            AttemptEnd(line["ending"], line["committed"], line["how"]) for line in self._lines()
        )

    def lost_starts(self, restart: int) -> list[int]:
        """Return which starts before ``restart`` left no word of their last attempt."""
        told = {line["restart"] for line in self._lines() if not line.get("goes_on")}
        return [start for start in range(restart) if start not in told]

    def put_down(self, ended: AttemptEnd, restart: int, *, goes_on: bool = False) -> None:
        """Add an attempt.

        Args:
            ended: How it ended.
            restart: Slurm's number of the start that it was in.
            goes_on: Whether another attempt follows in the same start.

        Raises:
            OSError: It cannot be written.
        """
        append_record(self.path, asdict(ended) | {"restart": restart, "goes_on": goes_on})

    def _lines(self) -> Iterator[dict[str, Any]]:
        for number, line in enumerate(read_records(self.path)):
            yield {"restart": number} | line  # earlier versions: one attempt a start
