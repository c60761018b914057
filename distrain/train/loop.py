"""Layer 11, the training loop: the one place that says what happens in which order."""

import hashlib
import logging
import math
import time
from dataclasses import asdict, replace

import torch

from distrain.config.best import watched_metrics
from distrain.data.samples.loader import Batch, Microbatch
from distrain.errors import RecipeError
from distrain.fault.page import begin_steps, mark
from distrain.fault.wishes import Wish
from distrain.monitor.monitor import Monitor
from distrain.monitor.step_result import NotApplied, StepResult
from distrain.parallel.waits import waits
from distrain.runs.skips import number_of
from distrain.runs.strikes import describe_straggler
from distrain.tasks.task import TaskSums, means
from distrain.train.agreed import Agreed, agree
from distrain.train.progress import Progress
from distrain.train.rehearsal import rehearse
from distrain.train.rewinding import answer_spike, rewind
from distrain.train.run import Run

log = logging.getLogger(__name__)


class Clock:
    """Seconds of one step."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._idle_s = waits.idle_s()
        self.data_s = 0.0

    def data_arrived(self) -> None:
        """Note that the batch is here."""
        self.data_s = self.step_s

    @property
    def idle_share(self) -> float:
        """Share of the step so far in which this rank waited for others, or for a core."""
        return (waits.idle_s() - self._idle_s) / self.step_s

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
    rehearse(run, progress.step)
    begin_steps(progress.step)
    progress = validate_first(run, progress)
    batches = run.loader.batches(progress.step, run.max_steps)  # 1-3 collection to loader
    wish = Wish.NONE
    while progress.step < run.max_steps and not progress.is_stale(run.training.early_stopping):
        clock = Clock()
        mark("data", progress.step)
        own = run.wishes.own()
        # Who wishes to end waits for no batch: that wish will be granted, or a heavier one.
        batch = None if own.ends else next(batches)
        clock.data_arrived()
        # All ranks leave together, or the first collective after the loop would never return.
        agreed = agree(run, batch, own)
        wish = agreed.wish
        if wish.ends or batch is None:
            break
        run.checkpoints.poll(agreed.is_saving)
        result = make_step(run, batch, agreed, progress.step)
        if result.spike is not None and answer_spike(run, progress.step + 1, result):
            mark("restore")
            batches.close()
            progress = validate_first(run, rewind(run, progress.step + 1, result))
            batches = run.loader.batches(progress.step, run.max_steps)
            continue
        run.guards.count(result)
        progress = progress.after(result)
        record(run, progress, result, clock, agreed)
        progress.check_applied(result, run.training.max_skipped_steps, run.max_steps)
        if run.validation.is_due(progress.step, run.max_steps):  # 10 evaluation
            progress = validate(run, progress)
        is_best = progress.best_step == progress.step
        if run.checkpoints.is_due(progress.step) or wish is Wish.SAVE or is_best:
            mark("save", progress.step)
            run.save(progress)
    run.certifier.close()
    mark("save", progress.step)
    run.save_and_wait(progress)  # first: a thread may still wait for samples nobody will read
    run.loader.feed.close()
    batches.close()
    return progress, wish


def make_step(run: Run, batch: Batch, agreed: Agreed, step: int) -> StepResult:
    """Make a step, or pass over one that is left out: its samples are used up all the same."""
    skip = run.guards.skip_of(batch)
    if skip is None:
        return train_step(run, batch, agreed, step)
    result = without_update(run, batch, agreed, step)
    if skip.rewound_to is not None:
        return replace(result, not_applied="rewind")
    # It was computed when it was judged, and its record says again what was found then.
    found = {name: number_of(value) for name, value in skip.measured.items()}
    loss, norm = found.pop("loss"), found.pop("grad_norm")
    return replace(result, loss=loss, grad_norm=norm, others=found, not_applied="spike")


def without_update(run: Run, batch: Batch, agreed: Agreed, step: int) -> StepResult:
    """Describe a step of which only the batch is known."""
    return StepResult(
        loss=math.nan,
        learning_rate=run.lr_at(step),
        grad_norm=math.nan,
        applied=False,
        first_sample=batch.first_sample,
        num_samples=batch.num_samples,
        num_tokens=batch.num_samples * run.loader.feed.sequence_length,
        num_targets=agreed.num_targets,
        batch_hash=agreed.batch_hash,
        memory_gib=agreed.memory_gib,
        num_padding=agreed.num_padding,
    )


def train_step(run: Run, batch: Batch, agreed: Agreed, step: int) -> StepResult:
    """Make one update from one global batch; its metrics are exact over all ranks."""
    form, engine, parts = run.form, run.engine, batch.microbatches
    # Every engine averages gradients over ranks. This factor undoes that, so the update
    # does not depend on how the batch was cut into ranks and microbatches.
    scale = engine.ranks.averaged_over / agreed.denominator
    spoils = 1.0 if run.inject is None else run.inject(step + 1)  # faults of `distrain chaos`
    scale *= spoils
    sums = torch.zeros(1, form.num_sums, device=run.device, dtype=torch.float64)

    def measure(number: int, microbatch: Microbatch) -> TaskSums:
        mark("forward_backward")
        seed_dropout(run, step, number)
        return run.measure(microbatch)  # 4 architecture, 5 forward pass, 6 loss

    for measured in engine.passes(parts, measure, scale):  # 7 backward pass
        sums += measured.stacked(form, with_denominators=engine.ranks.counts_rows)
    mark("update")
    if spoils != 1.0:
        sums *= spoils
    mine, norm = engine.fetch(sums[0])  # the one wait for the device
    # The second host collective. Before the update: all ranks make it or none, and the losses and
    # norms of all have a say in that.
    totals, (norm,) = engine.ranks.exchange(sums=mine, maxima=[norm], of="positions")
    metrics = means(form, agreed.denominator, totals)
    loss = metrics.pop(form.trained.name)
    spike = run.guards.find(loss, norm)
    refused = spike is not None and run.guards.refuses
    # An update by no number is made on no rank, and clears the gradients as every update does.
    given = math.nan if refused else loss
    update = engine.update(run.lr_at(step), run.max_grad_norm, given, norm)  # 8 optimizer
    if spike is None:  # where only the update knows the norm, it is judged after it
        spike = run.guards.find(loss, update.grad_norm)
    why: NotApplied = "spike" if refused else "nonfinite"
    return replace(
        without_update(run, batch, agreed, step),
        loss=loss,
        grad_norm=update.grad_norm,
        applied=update.applied,
        others=metrics,
        spike=spike,
        not_applied=None if update.applied else why,
    )


def seed_dropout(run: Run, step: int, microbatch: int) -> None:
    """Make dropout a pure function of where it happens, so that no random state is ever saved."""
    place = f"dropout {run.seed} {step} {run.engine.ranks.dp_rank} {microbatch}".encode()
    seed = int.from_bytes(hashlib.blake2b(place, digest_size=7).digest())
    # As torch.manual_seed does, without the kinds of devices that are not here: for each of those
    # it would note the call stack.
    torch.default_generator.manual_seed(seed)
    if run.device.type == "cuda":
        torch.cuda.manual_seed(seed)


def validate_first(run: Run, progress: Progress) -> Progress:
    """Validate where nothing is trained yet. Collective."""
    return validate(run, progress) if progress.step == 0 else progress


def validate(run: Run, progress: Progress) -> Progress:
    """Measure the validation split after ``progress.step`` steps. Collective."""
    mark("validation", progress.step)
    scores = run.validation.measure()
    early, trained = run.training.early_stopping, run.task.form.trained.name
    asked, times = ask_tasks(run, progress.step)
    found = scores.by_name(run.task.form) | asked
    progress = progress.after_validation(found, trained, early, run.keep_best)
    others = asked | times | write_samples(run, progress)
    if run.monitor is not None:
        run.monitor.record_scores(progress.step, scores.metrics, scores.by_source, others)
        if progress.is_stale(early):
            run.monitor.event("early_stop", step=progress.step, eval_loss=scores.loss)
    return progress


def ask_tasks(run: Run, step: int) -> tuple[dict[str, float], dict[str, float]]:
    """Ask tasks of ``lm_eval``, if it is time for it. Collective.

    Returns:
        Their figures, and how long it took, both by fields of the validation's record.

    Raises:
        RecipeError: What early stopping or ``keep_best`` watches is none of the figures. The first
            validation tells, before the first step.
    """
    if run.tasks is None or not run.validation.is_due(step, run.max_steps, run.tasks.every):
        return {}, {}
    started = time.perf_counter()
    asked = run.tasks.measure()
    for setting, watched in watched_metrics(run.training.early_stopping, run.keep_best).items():
        if watched.is_of_harness and watched.metric not in asked:
            raise RecipeError(
                f"{setting}.metric",
                f"'{watched.metric}', which the tasks of eval.harness do not measure",
                " or ".join(name for name in asked if not name.endswith("_stderr")),
                "Name one of these.",
            )
    return asked, {"perf/tasks_s": time.perf_counter() - started}


def write_samples(run: Run, progress: Progress) -> dict[str, float]:
    """Let the model write, if it is time for it. Collective.

    Returns:
        How long it took, as a field of the validation's record.
    """
    if run.samples is None:
        return {}
    is_last = progress.is_stale(run.training.early_stopping)
    every = run.samples.prompts.every
    if not (is_last or run.validation.is_due(progress.step, run.max_steps, every)):
        return {}
    started = time.perf_counter()
    written = run.samples.write()
    if run.monitor is not None:
        run.monitor.record_samples(progress.step, list(map(asdict, written)))
    return {"perf/samples_s": time.perf_counter() - started}


def record(run: Run, progress: Progress, result: StepResult, clock: Clock, agreed: Agreed) -> None:
    """Write the step's record, on rank 0; one that comes again is compared with it on every rank.

    Not collective: all ranks hold the same figures.
    """
    waits.last_share = clock.idle_share  # the next step's agreement tells it to all
    if run.monitor is not None:
        run.monitor.record_step(
            progress.step, result, step_time_s=clock.step_s, data_time_s=clock.data_s
        )
    run.certifier.check_step(progress.step, result)
    if run.monitor is None:
        return
    tell_straggler(run, run.monitor, progress.step, agreed)
    if result.not_applied == "nonfinite":
        loss, norm = str(result.loss), str(result.grad_norm)
        run.monitor.event("nonfinite", step=progress.step, loss=loss, grad_norm=norm)


def tell_straggler(run: Run, monitor: Monitor, step: int, agreed: Agreed) -> None:
    """Name the rank for which the others wait, once it is so. Not collective."""
    late = None if run.stragglers is None else run.stragglers.note(agreed.idle_shares)
    if late is not None:
        event = {"step": step} | asdict(late)
        log.warning("%s", describe_straggler(event))
        monitor.event("straggler", **event)
