"""Asking a remote store again: full jitter, a number of attempts, a deadline.

Full jitter: after failure n = 0, 1, ... a delay that is uniform between 0 and ``first * 2**n``
(Brooker, "Exponential backoff and jitter", AWS Architecture Blog, 2015).
"""

import http.client
import logging
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from distrain.config.sources import RetriesConfig
from distrain.errors import DataError
from distrain.fault.page import page

MAX_DELAY_S = 30.0
REPEATED_STATUSES = frozenset({408, 425, 429})
"""Of HTTP, besides 5xx: what the client did was right, but came at a wrong time."""
BOTOCORE_TEMPORARY = frozenset({"HTTPClientError", "ConnectionError"})
PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)

log = logging.getLogger(__name__)
# Ranks seed the global generator alike; their delays must differ.
_jitter = random.SystemRandom()
T = TypeVar("T")


class ShortBodyError(ConnectionError):
    """An answer that ended before its announced length."""


def remote_errors() -> tuple[type[Exception], ...]:
    """Return what a request to a store may raise.

    Classes of a library count only if it was imported: otherwise nothing can raise them.
    """
    found: list[type[Exception]] = [OSError, http.client.HTTPException]
    for module, name in (
        ("aiohttp", "ClientError"),
        ("botocore.exceptions", "BotoCoreError"),
        ("botocore.exceptions", "ClientError"),
        ("gcsfs.retry", "HttpError"),
        ("httpx", "HTTPError"),  # of huggingface_hub
    ):
        if module in sys.modules:
            found.append(getattr(sys.modules[module], name))
    return tuple(found)


def is_temporary(error: BaseException) -> bool:
    """Return whether the same request may succeed later.

    Libraries translate what a store answered (fsspec turns a 503 into FileNotFoundError), so the
    causes decide before the error itself does.
    """
    chain = list(_with_causes(error))
    if any(type(link).__name__ == "ClientPayloadError" for link in chain):
        return True  # a body that was cut off; its cause pretends to be a status 400
    status = next(filter(None, map(_status, chain)), None)
    if status is not None:
        return status >= 500 or status in REPEATED_STATUSES
    root = chain[-1]
    if isinstance(root, PERMANENT):
        return False
    if type(root).__module__.startswith(("botocore", "aiobotocore")):
        # Others of its errors are about credentials, parameters, regions.
        return not BOTOCORE_TEMPORARY.isdisjoint(base.__name__ for base in type(root).__mro__)
    return isinstance(root, remote_errors()) and not isinstance(root, ValueError)  # a bad URL


def retry(
    where: str,
    request: Callable[[float], T],
    config: RetriesConfig,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    uniform: Callable[[float, float], float] = _jitter.uniform,
) -> T:
    """Return what ``request`` returns, asked again after errors that may go away.

    Args:
        where: The URL, for messages.
        request: Is given its time limit in seconds.
        config: Attempts, delays, deadline.
        sleep: This and the next two are replaced in tests only.
        clock: In seconds, never going back.
        uniform: Draws the delay.

    Raises:
        DataError: The attempts or the time are used up.
        Exception: An error that would come again, as ``request`` raised it.
    """
    began = clock()

    def attempt(number: int) -> T:
        del number
        left = config.deadline - (clock() - began)
        # No attempt may outlast the deadline of all; 0 would mean no limit to some clients.
        return request(max(0.001, min(config.timeout, left)))

    def judge(failure: FailedAttempt) -> None:
        error, number, spent = failure.error, failure.number, clock() - began
        if not is_temporary(error):
            raise error
        # Given up at once where the delay alone would pass the deadline: to sleep first helps
        # nobody.
        if number >= config.attempts or spent + failure.delay_s >= config.deadline:
            raise _given_up(where, error, number, spent, config) from error
        log.warning(
            "%s: %s; attempt %d of %d in %.1f s",
            where,
            describe(error),
            number + 1,
            config.attempts,
            failure.delay_s,
        )

    jitter = Jitter(config.first_delay_s, uniform=uniform)
    return repeat(attempt, remote_errors, judge, jitter, sleep=sleep)


@dataclass(frozen=True)
class FailedAttempt:
    """An attempt that failed.

    Args:
        number: Of attempts so far, this one included.
        delay_s: That would lie before the next one.
    """

    number: int
    error: Exception
    delay_s: float


@dataclass(frozen=True)
class Jitter:
    """Delays between attempts; see ``full_jitter_s``."""

    first_delay_s: float
    max_delay_s: float = MAX_DELAY_S
    uniform: Callable[[float, float], float] = _jitter.uniform


def sleep_marking(seconds: float) -> None:
    """Sleep between two attempts, whose number or time is bounded, and so no hang."""
    until = time.monotonic() + seconds
    while (left_s := until - time.monotonic()) > 0:
        page.mark_fetch()
        time.sleep(min(left_s, 1.0))


def repeat(
    attempt: Callable[[int], T],
    errors: Callable[[], tuple[type[Exception], ...]],
    judge: Callable[[FailedAttempt], None],
    jitter: Jitter,
    *,
    sleep: Callable[[float], None] = sleep_marking,
) -> T:
    """Return what ``attempt`` returns, made again after errors, for as long as ``judge`` lets it.

    Args:
        attempt: Is given its number, from 1.
        errors: What it may raise that another attempt may not; asked after each one, because a
            client's library may have been imported by it.
        judge: Looks at each failure, and raises to give up.
        jitter: Delays.
        sleep: Replaced in tests only.
    """
    number = 0
    while True:
        number += 1
        try:
            return attempt(number)
        except errors() as error:
            delay_s = full_jitter_s(
                number, jitter.first_delay_s, jitter.max_delay_s, uniform=jitter.uniform
            )
            judge(FailedAttempt(number, error, delay_s))
        sleep(delay_s)


def full_jitter_s(
    failures: int,
    first_delay_s: float,
    max_delay_s: float = MAX_DELAY_S,
    *,
    uniform: Callable[[float, float], float] = _jitter.uniform,
) -> float:
    """Draw the delay after ``failures`` failures, from 1."""
    # The exponent is bounded too: a power beyond the range of floats raises.
    return uniform(0.0, min(max_delay_s, first_delay_s * 2.0 ** min(failures - 1, 32)))


def describe(error: BaseException) -> str:
    """Return class and message in one line; of a translated error, also what it was."""
    root = list(_with_causes(error))[-1]
    text = " ".join(str(root).split())
    return f"{type(root).__name__}: {text[:300]}" if text else type(root).__name__


def _given_up(
    where: str, error: Exception, attempts: int, spent: float, config: RetriesConfig
) -> DataError:
    return DataError(
        where,
        f"{describe(error)} (attempt {attempts}, after {spent:.1f} s)",
        f"an answer within {config.attempts} attempts and {config.deadline} s",
        "See whether the store can be reached from here, or raise retries.attempts and "
        "retries.deadline of the source.",
    )


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    # A timeout of asyncio is caused by a CancelledError, which says nothing and is no Exception.
    while isinstance(link, Exception):
        yield link
        link = link.__cause__


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that the error carries: as aiohttp, botocore, httpx or gcsfs do."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    elif response is not None:
        found = getattr(response, "status_code", None)
    else:
        found = getattr(error, "status", None) or getattr(error, "code", None)
    return found if isinstance(found, int) and 400 <= found < 600 else None
