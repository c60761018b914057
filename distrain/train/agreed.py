"""What all ranks agree on with a step's batch in hand: the first of its two host collectives."""

from collections.abc import Sequence
from dataclasses import dataclass

from distrain.data.samples.loader import Batch
from distrain.errors import TrainingError
from distrain.fault.wishes import Wish
from distrain.monitor.memory import peak_memory_gib
from distrain.parallel.waits import waits
from distrain.train.run import Run


@dataclass(frozen=True)
class Agreed:
    """The same on every rank.

    Args:
        wish: What all ranks act on after the step, or instead of it where it ends the job.
        is_saving: Whether any rank still writes a checkpoint.
        memory_gib: Peak of the largest rank so far, so without the step to come.
        denominator: Of the trained metric, over the global batch.
        num_targets: Of the global batch.
        batch_hash: Of the global batch, 32 bits, however many ranks cut it.
        idle_shares: Of the last step, by rank: how much of it each waited.
        num_padding: Positions of the global batch that hold no input.
    """

    wish: Wish
    is_saving: bool
    memory_gib: float
    denominator: float
    num_targets: int
    batch_hash: int
    idle_shares: Sequence[float]
    num_padding: int


def agree(run: Run, batch: Batch | None, own: Wish = Wish.NONE) -> Agreed:
    """Agree on whether and on what to step. Collective.

    Args:
        run: Of the stage.
        batch: This rank's part; ``None`` with a wish that ends the job, which needs none.
        own: The wish that this rank knows of.
    """
    parts = batch.microbatches if batch else ()
    samples = batch.own_samples if batch else range(0)
    totals, largest, idle_shares = run.engine.ranks.exchange_with(
        waits.last_share,
        sums=(
            sum(sum(run.task.denominators(part)) for part in parts),
            sum(part.num_targets for part in parts),
            batch.digest if batch else 0,
            len(samples),
            sum_of(samples),
            batch.num_padding if batch else 0,
        ),
        maxima=(own, run.checkpoints.is_saving, peak_memory_gib(run.device)),
    )
    denominator, num_targets, batch_hash, *parts_read, num_padding = totals
    granted, is_saving, memory_gib = run.wishes.granted(largest[0]), *largest[1:]
    if batch is not None and not granted.ends:
        check_parts(batch, *parts_read)
    return Agreed(
        wish=granted,
        is_saving=is_saving > 0,
        memory_gib=memory_gib,
        denominator=denominator,
        num_targets=int(num_targets),
        batch_hash=int(batch_hash) % 2**32,
        idle_shares=idle_shares,
        num_padding=int(num_padding),
    )


def check_parts(batch: Batch, count: float, sum_of_numbers: float) -> None:
    """Make sure that what the ranks have in hand makes up the step's samples.

    Args:
        batch: This rank's part.
        count: Samples of all ranks.
        sum_of_numbers: Of those samples, counted over the run. Ranks that all read the same part
            have the right count; their numbers give them away.

    Raises:
        TrainingError: On every rank: the parts are others.
    """
    first, size = batch.first_sample, batch.num_samples
    expected = sum_of(range(first, first + size))
    if (count, sum_of_numbers) == (size, expected):
        return
    raise TrainingError(
        f"the batch of samples {first} to {first + size - 1}",
        f"{count:g} samples over all ranks, whose numbers sum up to {sum_of_numbers:.0f}",
        f"{size}, which sum up to {expected}",
        "Samples would be lost or repeated. This is a defect of distrain: report it with the "
        "run's resolved.yaml.",
    )


def sum_of(numbers: range) -> int:
    """Sum up numbers one apart; exact, and in no time for a batch of any size."""
    return len(numbers) * (2 * numbers.start + len(numbers) - 1) // 2
