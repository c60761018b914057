"""Doing something on all ranks so that a failure of one is known to all before the next thing."""

import pickle
from collections.abc import Callable, Mapping
from typing import TypeVar, cast

from distrain.errors import DistrainError
from distrain.parallel.collectives import HostGroup

T = TypeVar("T")


class FailedError(Exception):
    """What went wrong on some rank, in a form that travels between ranks.

    Args:
        reason: In words.
        errno: Of the operating system's error behind it, if there is one.
    """

    def __init__(self, reason: str, errno: int | None) -> None:
        super().__init__(reason, errno)  # args: the error survives pickling
        self.reason = reason
        self.errno = errno

    def __str__(self) -> str:
        return self.reason


def describe(error: BaseException) -> FailedError:
    """Reduce any error to its cause."""
    if isinstance(error, FailedError):
        return error
    system = os_error_behind(error)
    if system is not None:
        place = f": {system.filename}" if system.filename else ""
        return FailedError(f"{system.strerror or system}{place}", system.errno)
    return FailedError(f"{type(error).__name__}: {error}", None)


def os_error_behind(error: BaseException) -> OSError | None:
    """Find the operating system's error that led to ``error``, through DCP's wrappings."""
    if isinstance(error, OSError):
        return error
    # Of DCP's CheckpointException: (error, traceback) of each rank. DCP is not imported to ask.
    failures: Mapping[int, tuple[BaseException, object]] = getattr(error, "failures", {})
    if failures:
        behind = (os_error_behind(cause) for cause, _ in failures.values())
        return next((found for found in behind if found is not None), None)
    link = error.__cause__ or error.__context__
    return os_error_behind(link) if link is not None else None


def agree(host: HostGroup, act: Callable[[], T]) -> list[T]:
    """Call ``act`` on every rank. Collective; ``act`` itself calls nothing that is.

    Returns:
        The result of each rank, in rank order.

    Raises:
        DistrainError: On every rank, that of the lowest rank where ``act`` raised one.
        FailedError: On every rank, for any other exception.
        RuntimeError: A rank was lost, so that nothing is agreed.
    """
    outcome: T | DistrainError | FailedError
    try:
        outcome = act()
        if host.world_size > 1:
            pickle.dumps(outcome)  # what cannot travel is found before the others wait for it
    except DistrainError as error:
        outcome = error
    except Exception as error:  # noqa: BLE001  (else the others wait for ever)
        outcome = describe(error)
    outcomes = host.gather(outcome)
    for other in outcomes:
        if isinstance(other, (DistrainError, FailedError)):
            raise other
    return cast(list[T], outcomes)


def on_first(host: HostGroup, act: Callable[[], T]) -> T:
    """Call ``act`` on rank 0 alone and give every rank its result; else as ``agree``."""
    return cast(T, agree(host, lambda: act() if host.rank == 0 else None)[0])
