"""What the training loop is given: one named collaborator a layer."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from distrain.checkpoint.commit import Content
from distrain.checkpoint.manager import CheckpointManager
from distrain.config.best import EarlyStopping, KeepBest, watched_metrics
from distrain.config.loading import PretrainDataConfig
from distrain.config.tasks import CAUSAL_LM, TaskForm
from distrain.config.training import TrainingConfig
from distrain.data.samples.held_out import Choice
from distrain.data.samples.loader import Loader, Microbatch
from distrain.data.samples.schedule import Schedule
from distrain.errors import CheckpointError
from distrain.evaluation.harness.in_loop import TaskAsker
from distrain.evaluation.samples import SampleWriter
from distrain.evaluation.validation import Validation
from distrain.fault.wishes import Wishes
from distrain.models.balancing import recording_routing
from distrain.monitor.monitor import Monitor
from distrain.optim.state import ScalarState
from distrain.parallel.collectives import HostGroup
from distrain.parallel.engine import Engine
from distrain.runs.certificates import CERTIFICATE_VERSION, NEXT_SAMPLES
from distrain.runs.skips import Skip
from distrain.tasks.task import Task, TaskSums
from distrain.train.balancing import Balancing
from distrain.train.certificate import Certifier
from distrain.train.data_plan import check_epochs
from distrain.train.guards import SKIPS, USUAL, Guards
from distrain.train.ledger import SampleLedger
from distrain.train.progress import Progress
from distrain.train.stragglers import Stragglers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """One stage's training, ready to start.

    Args:
        seed: Of dropout; sample order and initial weights have used it already.
        max_steps: Where the stage ends.
        max_grad_norm: Global L2 norm to which gradients are clipped; ``None``: they are not.
        data: In which shares sources are read, and how often at most.
        reads: What else ``data.json`` says of what is read.
        lr_at: Learning rate of the update that follows ``step`` steps.
        guards: Judges steps, and knows which are left out.
        certifier: Compares a stage that goes on with what it was.
        monitor: Writes the records; on rank 0 only.
        tasks: Asks the model tasks of ``lm_eval`` at validations, if the recipe names any.
        samples: Lets the model write at validations, if the recipe asks for it.
        stragglers: Judges for which rank the others wait.
        balancing: Of the experts of the model; ``None``: it has none, or leaves them alone.
        inject: Of a run under ``distrain chaos``: brings planned faults upon a step (from 1), and
            returns by what its loss and gradients are multiplied.
    """

    seed: int
    max_steps: int
    max_grad_norm: float | None
    training: TrainingConfig
    data: PretrainDataConfig
    reads: Mapping[str, object]
    device: torch.device
    host: HostGroup
    loader: Loader
    engine: Engine
    task: Task
    lr_at: Callable[[int], float]
    keep_best: KeepBest | None
    checkpoints: CheckpointManager
    validation: Validation
    monitor: Monitor | None
    wishes: Wishes
    guards: Guards
    certifier: Certifier
    tasks: TaskAsker | None = None
    samples: SampleWriter | None = None
    balancing: Balancing | None = None
    stragglers: Stragglers | None = None
    inject: Callable[[int], float] | None = None

    @property
    def form(self) -> TaskForm:
        """What a step measures: the task's metrics and, where experts are balanced, that loss."""
        form = self.task.form
        return form if self.balancing is None else form.with_balancing()

    def measure(self, microbatch: Microbatch) -> TaskSums:
        """Layers 4 to 6 of a training step, from a microbatch on the host.

        Collective where experts are balanced.
        """
        on_device = microbatch.to(self.device)
        if self.balancing is None:
            return self.task.measure(self.engine.model, on_device)
        with recording_routing() as forwards:
            measured = self.task.measure(self.engine.model, on_device)
        return self.balancing.add_to(
            measured, forwards, microbatch, sum(self.task.denominators(microbatch))
        )

    def restore(self, rewound: Skip | None = None) -> Progress:
        """Go back to the newest good checkpoint, or begin at step 0. Collective.

        Args:
            rewound: For which training, which has begun, goes back.

        Raises:
            CheckpointError: It is that of another model or task, or cannot be read here.
            DataError: The data are not those that it was made with, or will not last.
            RuntimeError: There is none, and the initial weights are gone.
        """
        self.guards.read()
        restored = self.checkpoints.restore(
            self.engine.state(), self._find_fault, self._refuse_others
        )
        if restored is None:
            if rewound is not None:
                raise RuntimeError(
                    f"no checkpoint from before step {rewound.first_step} is left: another attempt "
                    "begins at step 0, without the steps that are left out"
                )
            progress = Progress()
            self.certifier.begin_anew()
        else:
            step, extra = restored
            progress = self._watch_anew(Progress.from_json(extra["progress"]), extra.get("watched"))
            progress = replace(progress, ledger=ledger_of(extra, step))
            self.checkpoints.kept.best_step = progress.best_step
            self.engine.loaded(ScalarState.from_extra(extra))
            self.loader.feed.restore(extra["data"], step)
            self.validation.held_out.restore(extra.get("validation"))
            self.guards.restore(extra)
            self._certify(step, extra)
        check_epochs(self.data, self.loader.feed, self.max_steps)
        if self.monitor is not None:
            # The validation before the first step is made again, unlike that of a checkpoint.
            lost = self.monitor.truncate_after(progress.step or -1)
            # Only now: the record must never say of a step that is still in the metrics that it
            # read what another attempt will read.
            self.monitor.record_data(self._data_record(progress.step))
            if restored is not None:
                _report_return(self.monitor, progress.step, lost, rewound)
                self._report_change(self.monitor, Schedule.from_json(extra["data"]["schedule"]))
                self.certifier.close_if_nothing_comes()
        if restored is None and self.guards.rewinds:
            self.save(progress)  # there is something to go back to from the first step on
        return progress

    def save(self, progress: Progress) -> None:
        """Begin a checkpoint of this moment; returns once the state is copied. Collective."""
        self.checkpoints.save(
            progress.step, self.engine.state(), self._extra(progress), progress.best_step
        )

    def save_and_wait(self, progress: Progress) -> Content:
        """Make sure that this moment is on disk; returns the digest of it. Collective."""
        return self.checkpoints.save_and_wait(
            progress.step, self.engine.state(), self._extra(progress), progress.best_step
        )

    def _certify(self, step: int, extra: Mapping[str, Any]) -> None:
        """Compare what was restored with what was saved. Collective."""
        feed, saved = self.loader.feed, extra.get(NEXT_SAMPLES)
        digest = None
        # Of a later version: what it means by these samples is not known here.
        if isinstance(saved, dict) and saved.get("format_version") == CERTIFICATE_VERSION:
            digest = str(saved["digest"])
        # What this resume changes of the schedule comes on top of what was saved.
        before = Schedule.from_json(extra["data"]["schedule"])
        is_changed = feed.schedule.first_change(before) is not None
        drawn = None if digest is None else feed.next_samples(step, before if is_changed else None)
        self.certifier.check_state(
            step, self.engine.state(), self.checkpoints.content, (digest, drawn)
        )

    def _find_fault(self, step: int, extra: Mapping[str, Any]) -> str | None:
        return find_fault(step, extra) or self.guards.find_left_out(extra)

    def _refuse_others(self, extra: Mapping[str, Any]) -> None:
        self.guards.refuse_lost(extra)
        check_task(self.training.task, extra.get("task", CAUSAL_LM))
        self._refuse_another_optimizer(extra)

    def _refuse_another_optimizer(self, extra: Mapping[str, Any]) -> None:
        state, own = ScalarState.from_extra(extra), self.engine.optimizer_scalars()
        saved = state.optimizer
        if saved == own.optimizer and state.shards != own.shards:
            raise CheckpointError(
                "checkpoints of this stage",
                f"the state of optimizer {saved} for {state.shards} shards",
                f"{own.shards}, as many as parallelism and launch make now: where its blocks begin "
                "depends on that",
                "Set launch and parallelism so that data_parallel_shard, times context_parallel, "
                f"is {state.shards}.",
            )
        if saved != own.optimizer:
            raise CheckpointError(
                "checkpoints of this stage",
                f"the state of optimizer {saved}",
                f"that of {own.optimizer}, which optimizer.name says",
                f"Set optimizer.name to {saved} to go on. To start from the weights alone, also "
                f"set training.max_steps to {extra['progress']['step']}, which ends this stage, "
                "and add a stage of the same kind that needs it, with optimizer.name "
                f"{own.optimizer}.",
            )

    def _report_change(self, monitor: Monitor, before: Schedule) -> None:
        """Report the first step whose samples differ from the checkpoint's schedule."""
        schedule = self.loader.feed.schedule
        step = schedule.first_change(before)
        if step is None:
            return
        segment = schedule.at(step)
        sample, _ = schedule.samples_of(step)
        monitor.event(
            "schedule_changed",
            step=step,
            sample=sample,
            batch_size=segment.batch_size,
            weights=dict(segment.weights),
        )
        log.info(
            "after step %d, so from sample %d on: %d samples a step, weights %s",
            step,
            sample,
            segment.batch_size,
            ", ".join(f"{name} {weight:g}" for name, weight in segment.weights.items()),
        )

    def _data_record(self, step: int) -> dict[str, object]:
        return {
            "step": step,
            "max_steps": self.max_steps,
            "seed": self.seed,
            "sequence_length": self.training.sequence_length,
            **self.loader.feed.state(),
            "validation": self.validation.held_out.choice.to_json(),
            "computed_on": asdict(self.certifier.computed_on),
            **self.reads,
        }

    def _extra(self, progress: Progress) -> dict[str, object]:
        return {
            "task": self.training.task,
            "progress": progress.to_json(),
            "ledger": progress.ledger.to_json(),
            "optimizer": self.engine.optimizer_scalars().to_json(),
            "data": self.loader.feed.state(),
            NEXT_SAMPLES: self._next_samples(progress.step),
            "validation": self.validation.held_out.state(),
            "watched": self._watched(),
            **self.guards.extra(),
        }

    def _next_samples(self, step: int) -> dict[str, object] | None:
        if step >= self.max_steps:
            return None  # nothing comes, and sources may be used up
        digest = self.loader.feed.next_samples(step)
        return {"format_version": CERTIFICATE_VERSION, "digest": digest}

    def _watched(self) -> dict[str, list[str]]:
        """Say which figures decide, by setting: those of another cannot be compared with them."""
        early = self.training.early_stopping or EarlyStopping()
        return {
            setting: [watched.metric or self.task.form.trained.name, watched.mode]
            for setting, watched in watched_metrics(early, self.keep_best).items()
        }

    def _watch_anew(self, progress: Progress, before: Mapping[str, Any] | None) -> Progress:
        """Forget what was best by another figure than the one that decides now."""
        # Older versions did not say which; their recipes hardly ever changed there.
        changed = {
            setting
            for setting, watched in self._watched().items()
            if before is not None and before.get(setting) != watched
        }
        for setting in sorted(changed):
            log.info("%s watches another figure than before: what is best begins anew", setting)
        return progress.without_best(
            early="training.early_stopping" in changed, kept="checkpoint.keep_best" in changed
        )


def _report_return(monitor: Monitor, step: int, lost: int, rewound: Skip | None) -> None:
    """Say from which checkpoint training goes on, and why."""
    log.info("going on from the checkpoint of step %d; made again: %d records after it", step, lost)
    if rewound is None:
        monitor.event("resumed", step=step, lost_records=lost)
        return
    monitor.event(
        "rewound",
        step=step,
        from_step=rewound.decided_at_step,
        first_step=rewound.first_step,
        last_step=rewound.last_step,
        first_sample=rewound.first_sample,
        end_sample=rewound.end_sample,
        lost_records=lost,
    )


def check_task(wanted: str, found: str) -> None:
    """Refuse to go on with what was trained for something else.

    Raises:
        CheckpointError: The checkpoint's loss, and what was best of it, are those of another task.
    """
    if found == wanted:
        return
    raise CheckpointError(
        "training.task",
        f"{wanted}, with a checkpoint that was trained for {found}",
        f"training.task {found}: moments, losses and early stopping belong to it",
        f"Set training.task to {found} to go on. To start from its weights alone, write a new "
        f"stage with training.task {wanted} that names this one in needs, or the folder that it "
        "exports in model.from_pretrained.",
    )


def ledger_of(extra: Mapping[str, Any], step: int) -> SampleLedger:
    """Read the ledger that was saved with a step, or begin one there."""
    if "ledger" in extra:
        return SampleLedger.from_json(extra["ledger"])
    # Of an older version: what its steps read is not known, so it is counted from here on.
    log.info("the checkpoint of step %d has no ledger: samples are counted from here on", step)
    return SampleLedger(step, Schedule.from_json(extra["data"]["schedule"]).samples_before(step))


def find_fault(step: int, extra: Mapping[str, Any]) -> str | None:
    """Say why ``extra`` is not what a run saves with a step; ``None`` if it is."""
    try:
        progress = Progress.from_json(extra["progress"])
        Schedule.from_json(extra["data"]["schedule"])
        dict(extra["data"]["sources"])
        if "validation" in extra:  # not in those of older versions
            Choice.from_json(extra["validation"])
            dict(extra["validation"].get("content", {}))
        dict(extra.get("watched", {}))
        if "ledger" in extra:
            SampleLedger.from_json(extra["ledger"])
        int(extra.get(SKIPS, {"count": 0})["count"])
        [float(value) for values in extra.get(USUAL, {}).values() for value in values]
        ScalarState.from_extra(extra)
        counts = list(extra["progress"].values())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return f"what was saved besides tensors cannot be understood: {error!r}"
    if not isinstance(extra.get("task", CAUSAL_LM), str):  # not in those of older versions
        return f"it was trained for {extra['task']!r}, which is no name of a task"
    if not all(count is None or isinstance(count, int | float) for count in counts):
        return "what was saved besides tensors counts with something else than numbers"
    if progress.step != step:
        return f"it holds the progress of step {progress.step}"
    return None
