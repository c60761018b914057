"""Which faults come, and when: drawn from a seed alone. Pure."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from distrain.runs.planned_faults import EVERY_RANK, FaultKind, PlannedFault

BY_STEP: dict[str, FaultKind] = {"nan": "nan", "spike": "spike"}
"""Faults that change what is computed: the twin has them, too, at the same steps."""
FIRST_STEPS = 12
"""Of a stage whose length only its data tell: steps among which such faults are drawn."""


@dataclass(frozen=True)
class Draw:
    """A fault that comes by the clock."""

    number: int
    """From 1."""
    kind: str
    wait_s: float
    """After the one before, or after the start: seconds in which there are ranks."""
    dice: random.Random
    """Decides on the rest: which rank, which byte."""


def draw(kinds: Sequence[str], mean_s: float, seed: str) -> Iterator[Draw]:
    """Yield faults without end, at exponential distances.

    Kinds come in shuffled rounds, so that none is left out for long.

    Args:
        kinds: At least one.
        mean_s: Of the distances.
        seed: The same seed, the same faults.
    """
    dice, number = random.Random(f"chaos {seed}"), 0
    while True:
        for kind in dice.sample(kinds, len(kinds)):
            number += 1
            wait_s = dice.expovariate(1 / mean_s)
            yield Draw(number, kind, wait_s, random.Random(f"chaos {seed} {number}"))


class Due:
    """The fault that comes next, over all rounds of a stage, and how far its clock is.

    One that found nothing to strike before the stage ended stays due: else those that need more
    than a rank, such as a checkpoint, would hardly come.
    """

    def __init__(self, draws: Iterator[Draw]) -> None:
        self._draws = draws
        self.next = next(draws, None)
        self.clock_s = 0.0
        """Since the one before, of time in which there was something to strike."""

    @property
    def now(self) -> Draw | None:
        """Return it once its time has come."""
        if self.next is None or self.clock_s < self.next.wait_s:
            return None
        return self.next

    def has_come(self) -> None:
        """Draw the next one."""
        self.next, self.clock_s = next(self._draws, None), 0.0

    def put_back(self, drawn: Draw) -> None:
        """Let one come again, as what it was laid for ended before."""
        self._draws = chain([self.next] if self.next is not None else [], self._draws)
        self.next, self.clock_s = drawn, 0.0


def plan_by_step(
    stage: str, kinds: Sequence[str], total_steps: int | None, seed: str, each: int = 1
) -> list[PlannedFault]:
    """Draw at which steps a stage meets the faults that change what it computes.

    Args:
        stage: Its name.
        kinds: Of ``BY_STEP``, in any order.
        total_steps: Of the stage; ``None``: unknown.
        seed: The same seed, the same steps.
        each: How many of each kind, as far as the stage has steps for them.
    """
    kinds = [kind for kind in BY_STEP if kind in kinds]
    dice = random.Random(f"steps {seed} {stage}")
    # Every other step: one fault says nothing of the next, and a row of them would end a stage.
    steps = range(2, (total_steps or FIRST_STEPS) + 1, 2)
    chosen = dice.sample(steps, min(len(steps), each * len(kinds)))
    return [
        PlannedFault(
            number,
            BY_STEP[kinds[number % len(kinds)]],
            stage,
            step,
            # On one rank alone: all must agree that the step is not made.
            rank=EVERY_RANK if kinds[number % len(kinds)] == "spike" else -1,
        )
        for number, step in enumerate(chosen, start=1)
    ]
