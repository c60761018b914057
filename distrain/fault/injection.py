"""Brings planned faults upon this rank, each at its step (``distrain.runs.planned_faults``)."""

import ctypes
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from distrain.runs.planned_faults import EVERY_RANK, PlannedFault, claim, read_faults

SPIKE = 1000.0
"""By which a spiking step's loss and gradients are multiplied."""


class InjectedError(RuntimeError):
    """An exception that somebody asked for."""


class Injection:
    """The faults of one rank of a stage.

    Args:
        path: Of the plan, which may grow meanwhile.
        stage: Whose steps these are.
        rank: Of this process.
        world_size: How many ranks there are.
    """

    def __init__(self, path: Path, stage: str, rank: int, world_size: int) -> None:
        self._path = path
        self._stage = stage
        self._rank = rank
        self._world_size = world_size
        self._size = -1
        self._faults: list[PlannedFault] = []

    def __call__(self, step: int) -> float:
        """Have the faults of a step; return by what its loss and gradients are multiplied.

        Args:
            step: About to be computed, from 1.

        Raises:
            InjectedError: It is the fault.
        """
        self._read()
        factor = 1.0
        for fault in self._faults:
            if not fault.happens_to(self._rank, self._world_size):
                continue
            if fault.changes_results:
                if fault.step == step:
                    factor *= math.nan if fault.kind == "nan" else SPIKE
            elif fault.step <= step and self._is_due(fault):
                DOES[fault.kind](step)
        return factor

    def _is_due(self, fault: PlannedFault) -> bool:
        # What happens to every rank cannot be claimed by one of them.
        return fault.again or fault.rank == EVERY_RANK or claim(self._path, fault)

    def _read(self) -> None:
        size = self._path.stat().st_size
        if size != self._size:
            self._size, self._faults = size, read_faults(self._path, self._stage)


def _raise(step: int) -> NoReturn:
    raise InjectedError(f"an exception at step {step}, which DISTRAIN_FAULTS asked for")


def _exit(step: int) -> NoReturn:
    os._exit(0)


def _hold_the_lock(step: int) -> NoReturn:
    while True:  # a signal ends the call
        ctypes.PyDLL(None).sleep(600)


def _spin(step: int) -> NoReturn:
    while True:
        pass


def _sleep(step: int) -> NoReturn:
    while True:
        time.sleep(600)


DOES: Mapping[str, Callable[[int], NoReturn]] = {
    "exception": _raise,
    "exit": _exit,
    "lock": _hold_the_lock,
    "spin": _spin,
    "sleep": _sleep,
}
