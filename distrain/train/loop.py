"""Layer 11, the training loop: the one place that says what happens in which order."""

import hashlib
import time

import torch

from distrain.data.samples.loader import Batch
from distrain.fault.wishes import Wish
from distrain.monitor.memory import peak_memory_gib
from distrain.monitor.monitor import StepMeasurement
from distrain.tasks.task import means
from distrain.train.progress import Progress, StepResult
from distrain.train.run import Run


class Clock:
    """Seconds of one step."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.data_s = 0.0

    def data_arrived(self) -> None:
        """Note that the batch is here."""
        self.data_s = self.step_s

    @property
    def step_s(self) -> float:
        """Seconds since the step began."""
        return time.perf_counter() - self._started


def train(run: Run) -> tuple[Progress, Wish]:
    """Make optimizer steps until ``run.max_steps``, early stopping, or a wish to end.

    Checkpoints are taken only between steps and name the step they follow, so a
    restarted run repeats no update and skips no batch.

    Returns:
        How far it came, and the wish that ended it (``Wish.NONE``: the work is done).
    """
    progress = run.restore()  # 9 checkpointing
    if progress.step == 0:
        progress = validate(run, progress)
    batches = run.loader.batches(progress.step, run.max_steps)  # 1-3 collection to loader
    wish = Wish.NONE
    while progress.step < run.max_steps and not progress.is_stale(run.training.early_stopping):
        # All ranks must leave together, or the first collective after the loop never returns.
        wish = run.wishes.agreed()
        if wish.ends:
            break
        clock = Clock()
        batch = next(batches)
        clock.data_arrived()
        result = train_step(run, batch, progress.step)
        progress = progress.after(result)
        record(run, progress, result, batch, clock)
        progress.check_applied(result, run.training.max_skipped_steps, run.max_steps)
        if run.validation.is_due(progress.step, run.max_steps):  # 10 evaluation
            progress = validate(run, progress)
        if run.checkpoints.is_due(progress.step) or wish is Wish.SAVE:
            run.save(progress)
        run.checkpoints.poll()
    run.save_and_wait(progress)  # first: a thread may still wait for samples nobody will read
    run.loader.feed.close()
    batches.close()
    return progress, wish


def train_step(run: Run, batch: Batch, step: int) -> StepResult:
    """Make one update from one global batch; its metrics are exact over all ranks."""
    form, parts = run.task.form, batch.microbatches
    # All that follows from the batch alone: the backward pass is scaled by it.
    denominator, num_targets = run.host.sum(
        sum(sum(run.task.denominators(part)) for part in parts),
        sum(part.num_targets for part in parts),
    )
    # Every engine averages gradients over ranks. This factor undoes that, so the update
    # does not depend on how the batch was cut into ranks and microbatches.
    scale = run.engine.dp_size / denominator
    sums = torch.zeros(1, form.num_sums, device=run.device, dtype=torch.float64)
    for number, microbatch in enumerate(parts, start=1):
        seed_dropout(run, step, number)
        with run.engine.accumulate(last=number == len(parts)):
            # 4 architecture, 5 forward pass, 6 loss
            measured = run.task.measure(run.engine.model, microbatch.to(run.device))
            run.engine.backward(measured.trained * scale)  # 7 backward pass
        sums += measured.stacked(form)
    # Summed before the update: all ranks make it or none, and the loss has a say in that.
    metrics = means(form, denominator, run.host.sum(*sums[0].tolist()))
    loss, lr = metrics.pop(form.trained.name), run.lr_at(step)
    update = run.engine.update(lr, run.max_grad_norm, loss)  # 8 optimizer
    num_tokens = batch.num_samples * run.training.sequence_length
    return StepResult(loss, update, lr, num_tokens, int(num_targets), metrics)


def seed_dropout(run: Run, step: int, microbatch: int) -> None:
    """Make dropout a pure function of where it happens, so that no random state is ever saved."""
    place = f"dropout {run.seed} {step} {run.engine.dp_rank} {microbatch}".encode()
    torch.manual_seed(int.from_bytes(hashlib.blake2b(place, digest_size=7).digest()))


def validate(run: Run, progress: Progress) -> Progress:
    """Measure the validation split after ``progress.step`` steps. Collective."""
    scores = run.validation.measure()
    early = run.training.early_stopping
    progress = progress.after_validation(scores.loss, early.min_delta if early else 0.0)
    if run.monitor is not None:
        run.monitor.record_scores(progress.step, scores.metrics, scores.by_source)
        if progress.is_stale(early):
            run.monitor.event("early_stop", step=progress.step, eval_loss=scores.loss)
    return progress


def record(run: Run, progress: Progress, result: StepResult, batch: Batch, clock: Clock) -> None:
    """Write the step's record, on rank 0. Collective."""
    # The sum of the ranks' digests is that of the whole batch, however many ranks cut it.
    (batch_hash,) = run.host.sum(float(batch.digest))
    (memory_gib,) = run.host.max(peak_memory_gib(run.device))
    if run.monitor is None:
        return
    measurement = StepMeasurement(
        step=progress.step,
        loss=result.loss,
        others=result.others,
        learning_rate=result.lr,
        grad_norm=result.update.grad_norm,
        applied=result.update.applied,
        first_sample=batch.first_sample,
        num_samples=batch.num_samples,
        num_targets=result.num_targets,
        batch_hash=int(batch_hash) % 2**32,
        step_time_s=clock.step_s,
        data_time_s=clock.data_s,
        memory_gib=memory_gib,
    )
    run.monitor.record_step(measurement)
    if not result.update.applied:
        loss, norm = str(result.loss), str(result.update.grad_norm)
        run.monitor.event("nonfinite", step=progress.step, loss=loss, grad_norm=norm)
