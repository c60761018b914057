"""The phases of a prepare stage that a job of its own may do, and how far a stage has come.

Several jobs share the ranges of one phase; between two of these, one job does what needs them all.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from distrain.runs.folder import StageFolder
from distrain.runs.records import read_json

Phase = Literal["plan", "clean", "decide", "encode"]
PHASES: tuple[Phase, ...] = get_args(Phase)
"""In their order. ``decide`` stands for deduplication, tokenizer and the choice of the engine."""
SHARED_PHASES: frozenset[Phase] = frozenset({"clean", "encode"})
"""Those over ranges, which may be done in shares."""


@dataclass(frozen=True)
class Share:
    """Every ``count``-th range from the ``index``-th on.

    Args:
        index: From 0.
    """

    index: int = 0
    count: int = 1

    def numbers(self, ranges: int) -> range:
        """Return the numbers of its ranges, of so many in all."""
        return range(self.index, ranges, self.count)

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Read ``2/8``: the third of eight shares.

        Raises:
            ValueError: It is no such share.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or int(match[1]) >= int(match[2]):
            raise ValueError(f"{text!r}; expected INDEX/COUNT with INDEX from 0 to COUNT - 1")
        return cls(int(match[1]), int(match[2]))


WHOLE = Share()


@dataclass(frozen=True)
class PrepareProgress:
    """Ranges of a prepare stage that is not done."""

    ranges: int
    cleaned: int
    encoded: int

    def __str__(self) -> str:
        if self.encoded or self.cleaned == self.ranges:
            return f"{self.encoded} of {self.ranges} ranges encoded"
        return f"{self.cleaned} of {self.ranges} ranges cleaned"


def prepare_progress(folder: StageFolder) -> PrepareProgress | None:
    """Count the finished ranges of a prepare stage; ``None`` before its plan is made."""
    plan = read_json(folder.plan)
    if plan is None:
        return None
    return PrepareProgress(
        sum(len(source["ranges"]) for source in plan["sources"].values()),
        _count(folder.cleaned, "_*.json"),
        _count(folder.encoded, "*.json"),
    )


def _count(folder: Path, pattern: str) -> int:
    """Count the records of ranges, each in the folder of its source; see ``WorkFolder``."""
    return sum(1 for _ in folder.glob(f"*/{pattern}"))
