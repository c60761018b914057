"""What can go wrong, in the one form of message that users read, and the exit code of each kind.

Every message says where, what was found, what was expected and what to do about it.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the ``distrain`` command; documented in ``docs/commands.md``."""

    DONE = 0
    BUG = 1
    """A defect of distrain itself; the traceback is in the log."""
    USAGE = 2
    RECIPE = 3
    PREFLIGHT = 4
    """The machine, the data or the run folder is not fit for the run."""
    SCHEDULER = 5
    TRAINING = 6
    """Training failed and would fail again."""
    NOT_FOUND = 7
    NOT_PROVED = 8
    """A proof was asked for (``chaos``, ``prove``), and what came out is not what had to."""
    STOPPED = 75
    """Stopped cleanly with work left (EX_TEMPFAIL); never returned by a worker."""
    INTERRUPTED = 130


class DistrainError(Exception):
    """An error with a message for the user.

    Args:
        where: Dotted path of a setting (``"launch.nodes"``), ``file:line:column``, or a path.
        found: What is there, with its values.
        expected: What would have been accepted, with its values.
        remedy: What the reader should do: one imperative sentence, ending in a full stop.
    """

    exit_code: ExitCode = ExitCode.BUG

    def __init__(self, where: str, found: str, expected: str, remedy: str) -> None:
        super().__init__(where, found, expected, remedy)  # args: the error survives pickling
        self.where = where
        self.found = found
        self.expected = expected
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.where}: found {self.found}; expected {self.expected}. {self.remedy}"


class RecipeError(DistrainError):
    """A recipe asks for something impossible; no job was started."""

    exit_code = ExitCode.RECIPE


class PreflightError(DistrainError):
    """The recipe is valid, but this machine, folder or data cannot serve it."""

    exit_code = ExitCode.PREFLIGHT


class DataError(PreflightError):
    """A corpus, a shard or a tokenizer is missing, damaged or too small."""


class SchedulerError(DistrainError):
    """Slurm is not there, or refused."""

    exit_code = ExitCode.SCHEDULER


class CheckpointError(DistrainError):
    """A checkpoint cannot be used: damaged, incomplete, or of another model."""

    exit_code = ExitCode.TRAINING


class TrainingError(DistrainError):
    """Training ended and would end the same way if it were started again."""

    exit_code = ExitCode.TRAINING


class ProofError(DistrainError):
    """What was to be proved does not hold, or could not be shown."""

    exit_code = ExitCode.NOT_PROVED


class NotFoundError(DistrainError):
    """A run, a stage, a checkpoint or a shipped recipe of that name does not exist."""

    exit_code = ExitCode.NOT_FOUND
