"""Layer 3 backwards, of fine-tuning: the examples that a step read, and the steps that read one.

As ``seen`` for documents. Examples are whole, so what is asked is where each lies in its row.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from distrain.config.tasks import IGNORE_INDEX
from distrain.data.samples.examples import ExampleDataset, ExampleStream
from distrain.data.samples.schedule import SamplePlan


class ExamplePlace(NamedTuple):
    """Where one example lies in one sample."""

    sample: int
    """g, counted over the run."""
    source: str
    epoch: int
    """Of the source, from 0."""
    example: int
    """Number within the source, of those that are trained on."""
    first: int
    """First position in the row."""
    stop: int
    """End of its inputs."""
    num_targets: int
    """Tokens that the step trained on."""


@dataclass(frozen=True)
class ExampleLedger:
    """The examples that a run reads, by step.

    Args:
        plan: Maps each g to a sample of a source.
        streams: By the name of their source.
    """

    plan: SamplePlan
    streams: Mapping[str, ExampleStream]

    def places_of_step(self, step: int) -> list[ExamplePlace]:
        """List what ``step``, from 0, reads: sample by sample, as they lie in their rows."""
        first, size = self.plan.schedule.samples_of(step)
        kinds, n = self.plan.draw(np.arange(first, first + size))
        found: list[ExamplePlace] = []
        for g, (kind, number) in enumerate(zip(kinds.tolist(), n.tolist(), strict=True), first):
            source = self.plan.names[kind]
            stream = self.streams[source]
            epochs, indices = stream.order.visit(np.array([number]))
            found += _places(stream.dataset, g, source, int(epochs[0]), int(indices[0]))
        return found

    def places_of_example(self, source: str, example: int, steps: int) -> list[ExamplePlace]:
        """List where the first ``steps`` steps read an example, in the order of the run."""
        stream = self.streams[source]
        consumed = self.plan.consumed_by_steps(steps)[source]
        indices = stream.dataset.samples_with(example)
        found = []
        # Of the last epoch, only what comes before ``consumed`` was read.
        for epoch in range(-(-consumed // stream.order.num_samples)):
            numbers = stream.order.find(epoch, indices)
            for n, index in zip(numbers.tolist(), indices.tolist(), strict=True):
                if n < consumed:
                    g = self.plan.find(source, n)
                    places = _places(stream.dataset, g, source, epoch, index)
                    found += [place for place in places if place.example == example]
        return sorted(found)


def _places(
    dataset: ExampleDataset, g: int, source: str, epoch: int, index: int
) -> Iterator[ExamplePlace]:
    """Yield the examples of one sample, one behind the other as ``ExampleDataset.fill`` does."""
    place = 0
    for example in dataset.members(index).tolist():
        inputs, targets = dataset.tokens.inputs_and_targets(example)
        stop, num_targets = place + len(inputs), int((targets != IGNORE_INDEX).sum())
        yield ExamplePlace(g, source, epoch, example, place, stop, num_targets)
        place = stop
