"""How a stage that failed for good is put down, by runtime or launcher, and found again."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

from distrain.errors import DistrainError
from distrain.runs.folder import RunFolder, StageFolder
from distrain.runs.records import (
    StageError,
    StageState,
    append_event,
    read_json,
    read_state,
    utc_now,
    write_json,
)

YIELDED = "yielded"
"""Reason of the event ``restarted`` after an attempt that saved, ended as asked and lost nothing;
the supervisor of a Slurm job writes it."""


@dataclass(frozen=True)
class Failure:
    """Why a stage failed for good."""

    time: str
    """Empty in a record of before times were kept."""
    error: str
    """Where, what was found and what was expected."""
    remedy: str

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Self:
        """Take apart a ``StageError``, also one that holds less, as older versions wrote it."""
        message, remedy = str(record.get("message", "")), str(record.get("remedy", ""))
        return cls(str(record.get("time", "")), message.removesuffix(remedy).rstrip(), remedy)


def record_failure(
    run: RunFolder, stage: str, error: DistrainError, attempt: int | None = None
) -> None:
    """Put down that a stage failed for good: its error, an event and its state.

    Args:
        run: Folder of the run.
        stage: Name of the stage.
        error: Why, and what to do about it.
        attempt: The one that ended so; ``None``: the one that the state names.
    """
    folder = run.stage(stage)
    before = read_state(folder)
    if attempt is None:
        attempt = before["attempt"] if before else 1
    record = record_error(run, stage, error, attempt)
    state: StageState = {
        "state": "failed",
        "attempt": attempt,
        "step": before["step"] if before else 0,
        "requeue": False,
        "time": record["time"],
        "error": record,
    }
    write_json(folder.state, state)


def record_error(run: RunFolder, stage: str, error: DistrainError, attempt: int) -> StageError:
    """Put down an error that another attempt would meet again; the stage's state stays as it is."""
    record = error_record(error, utc_now())
    write_json(run.stage(stage).error, record)
    append_event(run.events, "failed", stage, attempt=attempt, reason=str(error))
    return record


def error_record(error: DistrainError, time: str) -> StageError:
    """Return the form of an error in a run folder."""
    return {
        "exit_code": int(error.exit_code),
        "message": str(error),
        "remedy": error.remedy,
        "time": time,
    }


def after_the_logs(run: str) -> str:
    """Return the remedy where only the logs of a stage tell why it failed.

    Args:
        run: Name of the run, quoted if a shell needs that.
    """
    return f"Read `distrain logs {run} --errors`, remove the cause, then `distrain resume {run}`."


def failure_of(folder: StageFolder) -> Failure | None:
    """Return why a stage failed for good; ``None`` if it has not, as far as its records say."""
    error = read_json(folder.error)
    if error is None:
        state = read_state(folder)
        if state is None or state["state"] != "failed":
            return None
        error = cast("dict[str, Any]", state.get("error", {}))
    return Failure.read(error)


def count_restarts(events: Iterable[Mapping[str, Any]], stage: str) -> int:
    """Count how often a stage was started again because an attempt had failed.

    Neither the user's own resumes nor yields count.
    """
    return sum(
        event.get("event") == "restarted"
        and event.get("stage") == stage
        and event.get("reason") != YIELDED
        for event in events
    )
