"""The test split is used once per run; a second look needs a flag, and is written down."""

from distrain.errors import PreflightError
from distrain.runs.folder import RunFolder
from distrain.runs.records import read_json, utc_now, write_json


def claim(run: RunFolder, stage: str, *, again: bool = False) -> None:
    """Record that ``stage`` uses the test split now.

    A stage that was killed goes on under its own claim; only a finished use is used up.

    Raises:
        PreflightError: The test split was used already and ``again`` is false.
    """
    uses = (read_json(run.test_opened) or {"uses": []})["uses"]
    unfinished = [use for use in uses if use["stage"] == stage and use["finished"] is None]
    if unfinished:
        return
    if uses and not again:
        last = uses[-1]
        raise PreflightError(
            str(run.test_opened),
            f"the test split was used by stage '{last['stage']}' on {last['started']}",
            "one use per run, so that nothing is ever chosen by the test figures",
            "Read the figures with `distrain report`; "
            "to use it knowingly once more, run `distrain evaluate RUN --again`.",
        )
    uses.append({"stage": stage, "started": utc_now(), "finished": None})
    write_json(run.test_opened, {"uses": uses})


def is_used(run: RunFolder, stage: str) -> bool:
    """Return whether the last use of the test split was by ``stage`` and came to its end."""
    uses = (read_json(run.test_opened) or {"uses": []})["uses"]
    return bool(uses) and uses[-1]["stage"] == stage and uses[-1]["finished"] is not None


def finish(run: RunFolder, stage: str) -> None:
    """Record that the use of ``stage`` came to its end."""
    record = read_json(run.test_opened)
    assert record is not None, "claim comes first"
    for use in record["uses"]:
        if use["stage"] == stage and use["finished"] is None:
            use["finished"] = utc_now()
    write_json(run.test_opened, record)
