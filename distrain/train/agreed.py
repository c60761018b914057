"""What all ranks agree on with a step's batch in hand: the first of its two host collectives."""

from dataclasses import dataclass

from distrain.data.samples.loader import Batch
from distrain.fault.wishes import Wish
from distrain.monitor.memory import peak_memory_gib
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
    """

    wish: Wish
    is_saving: bool
    memory_gib: float
    denominator: float
    num_targets: int
    batch_hash: int


def agree(run: Run, batch: Batch | None, own: Wish = Wish.NONE) -> Agreed:
    """Agree on whether and on what to step. Collective.

    Args:
        run: Of the stage.
        batch: This rank's part; ``None`` with a wish that ends the job, which needs none.
        own: The wish that this rank knows of.
    """
    parts = batch.microbatches if batch else ()
    totals, largest = run.engine.ranks.exchange(
        sums=(
            sum(sum(run.task.denominators(part)) for part in parts),
            sum(part.num_targets for part in parts),
            batch.digest if batch else 0,
        ),
        maxima=(own, run.checkpoints.is_saving, peak_memory_gib(run.device)),
    )
    denominator, num_targets, batch_hash = totals
    wish, is_saving, memory_gib = largest
    return Agreed(
        wish=run.wishes.granted(wish),
        is_saving=is_saving > 0,
        memory_gib=memory_gib,
        denominator=denominator,
        num_targets=int(num_targets),
        batch_hash=int(batch_hash) % 2**32,
    )
