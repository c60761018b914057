"""Validation: the metrics of a fixed set of samples, the same whatever the number of ranks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import tee

import torch

from distrain.config.tasks import TaskForm
from distrain.data.samples.examples import ExampleDataset
from distrain.data.samples.held_out import HeldOut, MeasuredPart
from distrain.data.samples.order import Ints
from distrain.evaluation.bootstrap import ExampleSums
from distrain.evaluation.examples import sum_examples
from distrain.evaluation.measuring import Measure
from distrain.parallel.engine import Engine
from distrain.tasks.task import means


@dataclass(frozen=True)
class Scores:
    """What one validation found.

    Args:
        loss: The trained metric; of next-token tasks in nats per target token.
        metrics: All metrics of the task over all samples, by name.
        by_source: As ``metrics``, by source; without sources of which nothing was measured.
    """

    loss: float
    metrics: Mapping[str, float]
    by_source: Mapping[str, Mapping[str, float]]

    def by_name(self, form: TaskForm) -> dict[str, float]:
        """Return all figures by name, also what is derived; those of a source as ``loss/web``."""
        of_sources = {
            f"{name}/{source}": value
            for source, found in self.by_source.items()
            for name, value in form.with_derived(found).items()
        }
        return form.with_derived(self.metrics) | of_sources


@dataclass(frozen=True)
class Validation:
    """A set of samples and when to measure them.

    Args:
        engine: What runs the forward pass.
        measured: What is taken of each microbatch.
        held_out: The samples.
        micro_batch_size: Samples of one forward pass.
        eval_steps: Steps between two measurements.
    """

    engine: Engine
    measured: Measure
    held_out: HeldOut
    micro_batch_size: int
    eval_steps: int

    def is_due(self, step: int, last_step: int, every: int = 1) -> bool:
        """Return whether to measure after ``step`` steps: every ``eval_steps``, and at the end.

        With ``every``, whether that validation is one of so many.
        """
        return step % (self.eval_steps * every) == 0 or step == last_step

    def parts(self) -> Iterator[MeasuredPart]:
        """Yield this rank's share: as many parts as on every rank, for a pass may be collective."""
        return self.held_out.parts(
            micro_batch_size=self.micro_batch_size,
            dp_rank=self.engine.ranks.dp_rank,
            dp_size=self.engine.ranks.dp_size,
        )

    @torch.no_grad()
    def measure(self) -> Scores:
        """Measure all of them. Collective."""
        model, task, form = self.engine.model, self.measured.task, self.measured.form
        model.eval()
        places = {source: place for place, source in enumerate(self.held_out.choice.counts)}
        denominators = [0.0] * len(places)
        shape, device = (len(places), form.num_sums), self.measured.device
        sums = torch.zeros(shape, dtype=torch.float64, device=device)
        parts, of_passes = tee(self.parts())
        microbatches = (part.microbatch for part in of_passes)
        all_found = self.engine.measurements(microbatches, partial(self.measured, model))
        for part, found in zip(parts, all_found, strict=True):
            if not part.rows:
                continue
            by_group = zip(
                part.rows,
                found.stacked(form, with_denominators=self.engine.ranks.counts_rows),
                task.denominators(part.microbatch),
                strict=True,
            )
            for source, row, denominator in by_group:
                sums[places[source]] += row
                denominators[places[source]] += denominator
        model.train()
        ranks = self.engine.ranks
        totals = ranks.sum(*sums.flatten().tolist(), of="positions")  # the one wait for the device
        return self._scores(ranks.sum(*denominators), totals)

    def sum_examples(self, dataset: ExampleDataset, chosen: Ints) -> ExampleSums:
        """Measure examples one by one; see ``distrain.evaluation.examples``. Collective."""
        model = self.engine.model
        model.eval()
        found = sum_examples(
            model,
            self.measured,
            dataset,
            chosen,
            micro_batch_size=self.micro_batch_size,
            ranks=self.engine.ranks,
        )
        model.train()
        return found

    def _scores(self, denominators: list[float], sums: list[float]) -> Scores:
        """Divide the sums, which lie source by source."""
        form = self.measured.form
        width = form.num_sums
        rows = [sums[first : first + width] for first in range(0, len(sums), width)]
        metrics = means(
            form, sum(denominators), [sum(column) for column in zip(*rows, strict=True)]
        )
        by_source = zip(self.held_out.choice.counts, denominators, rows, strict=True)
        return Scores(
            metrics[form.trained.name],
            metrics,
            {
                source: means(form, denominator, row)
                for source, denominator, row in by_source
                if denominator
            },
        )
