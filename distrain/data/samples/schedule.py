"""Layer 3: what the run's samples are, over its whole life: the clock, and what it has counted.

The clock is g, the number of a sample in the run. A segment says from which step and sample on
which batch size and which weights hold. A change at a resume appends a segment; what was read
before keeps its meaning, so nothing is lost or repeated. Together with the digests of the shards
this is all the state that the data path has.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np

from distrain.data.samples.mixture import Mixture, integer_weights
from distrain.data.samples.order import Ints


@dataclass(frozen=True)
class Segment:
    """A stretch of the run in which nothing changes.

    Args:
        first_step: Steps made before it.
        first_sample: Samples read before it.
        batch_size: Samples of a step, over all ranks.
        weights: Of each source that is read.
        by_size: The weights are the samples that the sources have: after as many, each source
            was read exactly once.
    """

    first_step: int
    first_sample: int
    batch_size: int
    weights: Mapping[str, float]
    by_size: bool = False

    def same_settings(self, other: "Segment") -> bool:
        """Return whether only the place differs."""
        here = replace(self, first_step=other.first_step, first_sample=other.first_sample)
        return here == other


@dataclass(frozen=True)
class Schedule:
    """Segments in order, the first from step 0; pure."""

    segments: tuple[Segment, ...]

    @classmethod
    def planned(
        cls, batch_size: int, weights: Mapping[int, Mapping[str, float]], *, by_size: bool = False
    ) -> Self:
        """Lay out a run that has not begun.

        Args:
            batch_size: Samples of a step.
            weights: From which step on which weights hold; the first from step 0.
            by_size: See ``Segment``.
        """
        return cls(
            tuple(
                Segment(step, step * batch_size, batch_size, value, by_size)
                for step, value in sorted(weights.items())
            )
        )

    def continued(self, step: int, planned: "Schedule") -> "Schedule":
        """Return the schedule of a run that resumes after ``step`` steps with another plan.

        What lies before ``step`` stays as it was; from there on the plan holds.
        """
        past = [segment for segment in self.segments if segment.first_step < step]
        if not past:
            return planned
        # Counted from what the run has read, not by the new plan, whose batch size may be another.
        now = replace(planned.at(step), first_step=step, first_sample=self.samples_before(step))
        future = [segment for segment in planned.segments if segment.first_step > step]
        # An unchanged plan goes on in its segment: a new one would begin its order anew.
        segments = past if past[-1].same_settings(now) else [*past, now]
        for segment in future:
            last = segments[-1]
            # The plan placed it as if the run had begun with its batch size.
            first = last.first_sample + (segment.first_step - last.first_step) * last.batch_size
            segments.append(replace(segment, first_sample=first))
        return Schedule(tuple(segments))

    def first_change(self, other: "Schedule") -> int | None:
        """Return the first step, from 0, that reads otherwise by another schedule, if any does."""
        places = {segment.first_step for segment in (*self.segments, *other.segments)}
        changed = (step for step in sorted(places) if self.at(step) != other.at(step))
        return next(changed, None)

    def at(self, step: int) -> Segment:
        """Return the segment that step ``step`` (from 0) belongs to."""
        number = bisect_right([segment.first_step for segment in self.segments], step) - 1
        return self.segments[number]

    def samples_of(self, step: int) -> tuple[int, int]:
        """Return the first sample of a step, and how many it has."""
        segment = self.at(step)
        first = segment.first_sample + (step - segment.first_step) * segment.batch_size
        return first, segment.batch_size

    def samples_before(self, step: int) -> int:
        """Return how many samples the first ``step`` steps read."""
        if not step:
            return 0
        first, size = self.samples_of(step - 1)
        return first + size

    def step_of(self, sample: int) -> int:
        """Return the step that reads a sample."""
        firsts = [segment.first_sample for segment in self.segments]
        segment = self.segments[bisect_right(firsts, sample) - 1]
        return segment.first_step + (sample - segment.first_sample) // segment.batch_size

    def to_json(self) -> list[dict[str, Any]]:
        """Form in a checkpoint."""
        return [asdict(segment) for segment in self.segments]

    @classmethod
    def from_json(cls, value: Sequence[Mapping[str, Any]]) -> Self:
        """Read what ``to_json`` wrote."""
        return cls(tuple(Segment(**segment) for segment in value))


class SamplePlan:
    """Maps each g to a sample of a source. Pure: made anew from the schedule at any time.

    Args:
        seed: The recipe's.
        schedule: Of the run.
    """

    def __init__(self, seed: int, schedule: Schedule) -> None:
        self.names = tuple(sorted({name for part in schedule.segments for name in part.weights}))
        """The sources, in the order of the numbers that ``draw`` returns."""
        self.schedule = schedule
        self._first_samples = [segment.first_sample for segment in schedule.segments]
        self._mixtures = [self._mixture(seed, segment) for segment in schedule.segments]
        # What a source has given before a segment is the sum of what all earlier ones took of it:
        # so no sample is lost or repeated where weights change.
        self._bases: list[tuple[int, ...]] = [(0,) * len(self.names)]
        ends = zip(schedule.segments, schedule.segments[1:], self._mixtures, strict=False)
        for segment, following, mixture in ends:
            read = mixture.consumed(following.first_sample - segment.first_sample)
            self._bases.append(tuple(a + b for a, b in zip(self._bases[-1], read, strict=True)))

    def draw(self, samples: Ints) -> tuple[Ints, Ints]:
        """Return, for samples g of the run, the number of the source and n within it.

        n counts the samples of a source over the whole run, all epochs.
        """
        # Most runs: one source, nothing changed, so g and n are the same number.
        if len(self._first_samples) == 1 and len(self.names) == 1:
            return np.zeros_like(samples), samples
        sources, numbers = np.empty_like(samples), np.empty_like(samples)
        segments = np.searchsorted(self._first_samples, samples, side="right") - 1
        for number in np.unique(segments).tolist():
            chosen = segments == number
            first = self._first_samples[number]
            kinds, n = self._mixtures[number].draw(samples[chosen] - first)
            sources[chosen] = kinds
            numbers[chosen] = n + np.array(self._bases[number])[kinds]
        return sources, numbers

    def consumed(self, samples: int) -> dict[str, int]:
        """Return how many samples of each source the run's first ``samples`` hold."""
        if not samples:
            return dict.fromkeys(self.names, 0)
        number = bisect_right(self._first_samples, samples - 1) - 1
        read = self._mixtures[number].consumed(samples - self._first_samples[number])
        totals = (a + b for a, b in zip(self._bases[number], read, strict=True))
        return dict(zip(self.names, totals, strict=True))

    def consumed_by_steps(self, steps: int) -> dict[str, int]:
        """Return how many samples of each source the run's first ``steps`` steps read."""
        return self.consumed(self.schedule.samples_before(steps))

    def find(self, source: str, n: int) -> int:
        """Return the g that reads sample ``n`` of ``source``, had the run no end."""
        column = self.names.index(source)
        number = bisect_right([base[column] for base in self._bases], n) - 1
        # A segment that does not read the source has the same base as the one after it.
        within = self._mixtures[number].find(column, n - self._bases[number][column])
        return within + self._first_samples[number]

    def reads(self, source: str) -> bool:
        """Return whether the last segment, the one without an end, reads ``source``."""
        return self._mixtures[-1].weights[self.names.index(source)] > 0

    def _mixture(self, seed: int, segment: Segment) -> Mixture:
        # Named by where it begins, which no later change moves.
        name = f"segment {segment.first_sample}"
        given = [segment.weights.get(source, 0) for source in self.names]
        sizes = tuple(map(int, given)) if segment.by_size else None
        return Mixture(seed, name, sizes or integer_weights(given), sizes)
