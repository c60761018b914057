"""``<stage>/certificate.json``: what the last resume of a stage was compared with, and the outcome.

Written by ``distrain/train/certificate.py``; read by whoever tells of a run, and by ``prove``.
"""

from typing import Any, NotRequired, TypedDict, cast

from distrain.errors import CheckpointError
from distrain.runs.folder import StageFolder
from distrain.runs.records import read_json

CERTIFICATE_VERSION = 1
"""Also of the digest of coming samples in a checkpoint: raise it when either changes meaning."""

NEXT_SAMPLES = "next_samples"
"""Field of a checkpoint's ``extra`` with that digest; those of older versions have none."""


class Certificate(TypedDict):
    """What the file holds; the event of the same moment has ``step`` to ``found``."""

    format_version: int
    time: str
    attempt: int
    step: int
    """Of the checkpoint, 0 where training began anew."""
    state: str
    """In words, which of weights, optimizer state and coming samples were as saved."""
    steps: int
    """Made again, and compared with their records."""
    again: str
    """In words, how they were compared."""
    found: list[str]
    """What of them was otherwise; state or samples that are otherwise end the stage instead."""
    content: dict[str, str] | None
    next_samples: str | None
    seconds: float
    """That the comparison of the state took."""
    computed_on: dict[str, Any]
    number: NotRequired[int]


def read_certificate(folder: StageFolder) -> Certificate | None:
    """Return what the last resume was compared with; ``None`` where there was none.

    Raises:
        CheckpointError: It is of another version.
    """
    record = read_json(folder.certificate)
    if record is None:
        return None
    version = record.get("format_version")
    if version != CERTIFICATE_VERSION:
        raise CheckpointError(
            str(folder.certificate),
            f"a certificate of format version {version}",
            f"format version {CERTIFICATE_VERSION}",
            "Use the version of distrain that wrote it; the next resume writes another one.",
        )
    return cast(Certificate, record)


def certificate_text(folder: StageFolder) -> str | None:
    """Say in one line what came of the last resume, or why that cannot be told."""
    try:
        record = read_certificate(folder)
    except (CheckpointError, OSError, ValueError) as error:
        return f"certificate not read: {error}"
    return None if record is None else describe(record)


def describe(record: Certificate) -> str:
    """Say it in one line."""
    if record["found"]:
        more = len(record["found"]) - 1
        others = f" and {more} more differences" if more else ""
        return f"NOT certified after step {record['step']}: {record['found'][0]}{others}"
    return f"certified after step {record['step']}: {record['state']}; {record['again']}"
