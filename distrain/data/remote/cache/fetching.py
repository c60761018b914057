"""Moves one thing to or from a URL, again after errors, until a deadline."""

import time
from typing import Protocol, TypeVar

from distrain.data.sources.retries import (
    FailedAttempt,
    Jitter,
    describe,
    is_temporary,
    remote_errors,
    repeat,
)
from distrain.errors import DataError

FIRST_DELAY_S = 0.4
LONGEST_DELAY_S = 20.0
MAX_DAMAGED = 3
"""Times that something may arrive damaged before its source is taken to be so."""


Result = TypeVar("Result", covariant=True)


class Transfer(Protocol[Result]):
    """Something to move whose damage can be detected: a ``Block``, a manifest, an upload."""

    @property
    def label(self) -> str:
        """For messages: ``block 3 of shard 00012``."""
        ...

    @property
    def url(self) -> str:
        """Of the object that holds it."""
        ...

    @property
    def expected(self) -> str:
        """For messages: what whole content is."""
        ...

    def attempt(self) -> Result | None:
        """Move it, once; ``None`` if what came is not whole."""
        ...


class TransferProgress:
    """State of a transfer; other threads read it, and may move the deadline.

    Args:
        deadline: Time of ``time.monotonic`` after which it is given up.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.activity = "starting"


class _NotWholeError(Exception):
    """What came is not what was asked for."""


def complete(transfer: Transfer[Result], progress: TransferProgress) -> Result:
    """Return what ``attempt`` gives, once it is whole.

    Between attempts it waits a random time (``retries.full_jitter_s``), so that the nodes of a job
    do not all ask again at once.

    Raises:
        DataError: It is not there, arrives damaged, or has not come at the deadline.
    """
    damaged = 0

    def attempt(number: int) -> Result:
        progress.activity = f"request {number} to {transfer.url}"
        content = transfer.attempt()
        if content is None:
            raise _NotWholeError
        return content

    def judge(failure: FailedAttempt) -> None:
        nonlocal damaged
        error = failure.error
        if isinstance(error, _NotWholeError):
            # Apart from errors, which may last until the deadline: what arrives damaged again and
            # again is damaged at its source, and waiting changes nothing.
            damaged += 1
            if damaged == MAX_DAMAGED:
                raise _damaged(transfer) from None
            problem = "content that is not whole"
        # A store that is busy may be reported as a file that is not there.
        elif isinstance(error, FileNotFoundError | PermissionError) and not is_temporary(error):
            raise _unreachable(transfer, error) from error
        else:
            problem = describe(error)
        # At once instead of after a sleep whose end is too late; others may move the deadline.
        if time.monotonic() + failure.delay_s > progress.deadline:
            raise late(transfer, f"request {failure.number} gave: {problem}") from None
        progress.activity = f"waiting after request {failure.number} gave: {problem}"

    return repeat(attempt, transfer_errors, judge, Jitter(FIRST_DELAY_S, LONGEST_DELAY_S))


def transfer_errors() -> tuple[type[Exception], ...]:
    """Return what an attempt may raise: as a request may, or an object that ends too early."""
    return (EOFError, _NotWholeError, *remote_errors())


def late(transfer: Transfer[object], activity: str) -> DataError:
    """Build the error for what did not come in time."""
    return DataError(
        f"{transfer.label} ({transfer.url})",
        f"nothing whole in time; at last: {activity}",
        f"{transfer.expected} before the deadline",
        "See whether the storage answers, or raise data.cache.stall_deadline (below the "
        "collectives' timeout), and run the same command again.",
    )


def _unreachable(transfer: Transfer[object], error: OSError) -> DataError:
    return DataError(
        f"{transfer.label} ({transfer.url})",
        "no such object" if isinstance(error, FileNotFoundError) else describe(error),
        "an object that may be read",
        "Publish the split again, or correct the URL or its permissions.",
    )


def _damaged(transfer: Transfer[object]) -> DataError:
    return DataError(
        f"{transfer.label} ({transfer.url})",
        f"content that does not fit its digest, {MAX_DAMAGED} times",
        transfer.expected,
        "Publish the split again: it writes what is damaged anew.",
    )
