"""Which samples the steps of a stage have read: what must add up before a stage is done.

Counted from what the ranks had in hand, never from what the schedule planned, so that a schedule
which was changed, lost or misread on the way is found. Saved with every checkpoint: steps that are
lost with a process leave it with them, and are counted once when they are made again.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from distrain.monitor.step_result import StepResult

Span = tuple[int, int]
"""First sample, and the first one after it."""

EXAMPLES = 3
"""Stretches named in a message; a broken order may have thousands."""


@dataclass(frozen=True)
class SampleLedger:
    """What was read, in the order of reading. Pure.

    Args:
        first_step: Steps made before the first one that is counted: not 0 in a stage that went on
            from a checkpoint without a ledger.
        first_sample: Samples of those steps.
        steps: Counted steps.
        read: What they read, neighbours joined: one interval in a run without a fault.
        left_out: Of that, what was read by steps that were not applied.
        nonfinite: Of that, by steps whose loss or norm was no number; ``None``: counted by a
            version that did not tell them apart.
        digest: Running hash over each step's number, samples, content and whether it was applied.
    """

    first_step: int = 0
    first_sample: int = 0
    steps: int = 0
    read: tuple[Span, ...] = ()
    left_out: tuple[Span, ...] = ()
    nonfinite: tuple[Span, ...] | None = ()
    digest: str = ""

    def after(self, result: StepResult) -> Self:
        """Count one step."""
        span = (result.first_sample, result.first_sample + result.num_samples)
        step = self.first_step + self.steps
        entry = f"{self.digest} {step} {span[0]} {span[1]} {result.batch_hash} {result.applied:d}"
        return replace(
            self,
            steps=self.steps + 1,
            read=_joined(self.read, span),
            left_out=self.left_out if result.applied else _joined(self.left_out, span),
            nonfinite=self._nonfinite_after(result, span),
            digest=hashlib.blake2b(entry.encode(), digest_size=16).hexdigest(),
        )

    def _nonfinite_after(self, result: StepResult, span: Span) -> tuple[Span, ...] | None:
        if self.nonfinite is None or result.not_applied != "nonfinite":
            return self.nonfinite
        return _joined(self.nonfinite, span)

    def find_unrecorded(self, skipped: Iterable[Span]) -> str | None:
        """Compare what was left out with the decisions to leave steps out.

        Args:
            skipped: Samples of the steps that ``skips.jsonl`` leaves out, as far as they were made.

        Returns:
            In words, what was left out without a decision, or trained on against one.
        """
        wanted = _within(skipped, self.first_sample)
        # A step whose loss is no number needs no decision: it would be none again.
        explained = [*wanted, *(self.left_out if self.nonfinite is None else self.nonfinite)]
        found = [
            *_words("left out, though no decision says so", _without(self.left_out, explained)),
            *_words("trained on, though they are left out", _without(wanted, self.left_out)),
        ]
        return "; ".join(found) or None

    def find_difference(self, step: int, end: int) -> str | None:
        """Compare with a stage that has made ``step`` steps, which read the samples below ``end``.

        Returns:
            In words, what was not read, read twice, beyond the end or out of order; ``None`` where
            each sample was read once and in order.
        """
        wanted = (self.first_sample, end)
        missing = _without([wanted], self.read)
        again = _overlaps(self.read)
        beyond = _without(self.read, [wanted])
        found = [
            *_words("never read", missing),
            *_words("read more than once", again),
            *_words(f"read, though the stage has only {self.first_sample} to {end - 1}", beyond),
        ]
        counted = self.first_step + self.steps
        if counted != step:
            found.append(f"{counted} steps that read samples, of {step} made")
        if not found and self.read != (wanted,) and end > self.first_sample:
            found.append(f"samples read out of order: {_shown(self.read)}")
        return "; ".join(found) or None

    def to_json(self) -> dict[str, Any]:
        """Form in a checkpoint: what reading it gives back is equal, so lists and no tuples."""
        return {
            "first_step": self.first_step,
            "first_sample": self.first_sample,
            "steps": self.steps,
            "read": [list(span) for span in self.read],
            "left_out": [list(span) for span in self.left_out],
            "nonfinite": None if self.nonfinite is None else [list(s) for s in self.nonfinite],
            "digest": self.digest,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` wrote; an impossible form is an error of any kind."""
        return cls(
            first_step=int(value["first_step"]),
            first_sample=int(value["first_sample"]),
            steps=int(value["steps"]),
            read=_spans(value["read"]),
            left_out=_spans(value["left_out"]),
            nonfinite=None if value.get("nonfinite") is None else _spans(value["nonfinite"]),
            digest=str(value["digest"]),
        )


def _spans(value: Iterable[Sequence[Any]]) -> tuple[Span, ...]:
    return tuple((int(first), int(end)) for first, end in value)


def _within(spans: Iterable[Span], first: int) -> list[Span]:
    """Cut off what lies before a sample."""
    return [(max(a, first), b) for a, b in spans if b > first]


def _joined(spans: tuple[Span, ...], span: Span) -> tuple[Span, ...]:
    if spans and spans[-1][1] == span[0]:
        return (*spans[:-1], (spans[-1][0], span[1]))
    return (*spans, span)


def _without(spans: Sequence[Span], others: Iterable[Span]) -> list[Span]:
    """Return what of ``spans`` is in none of ``others``."""
    left = [span for span in spans if span[0] < span[1]]
    for first, end in others:
        parts = [[(a, min(b, first)), (max(a, end), b)] for a, b in left]
        left = [part for pair in parts for part in pair if part[0] < part[1]]
    return left


def _overlaps(spans: Sequence[Span]) -> list[Span]:
    """Return what more than one of ``spans`` holds."""
    found: list[Span] = []
    reached: Span | None = None
    for first, end in sorted(spans):
        if reached is not None and first < reached[1]:
            found.append((first, min(end, reached[1])))
        reached = (first, end if reached is None else max(end, reached[1]))
    return found


def _words(what: str, spans: Sequence[Span]) -> list[str]:
    return [f"samples {_shown(spans)} {what}"] if spans else []


def _shown(spans: Sequence[Span]) -> str:
    text = ", ".join(f"{first} to {end - 1}" for first, end in spans[:EXAMPLES])
    more = len(spans) - EXAMPLES
    return f"{text} and {more} more stretches" if more > 0 else text
