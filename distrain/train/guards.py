"""What a step is held against before it counts: spikes, and what is left out of the training.

All ranks hold the same: they are given the same figures, and rank 0 reads and writes the file.
"""

from collections.abc import Mapping
from typing import Any

from distrain.checkpoint.agreement import FailedError, on_first
from distrain.config.training import TrainingConfig
from distrain.data.samples.loader import Batch
from distrain.data.samples.schedule import Schedule
from distrain.errors import CheckpointError, TrainingError
from distrain.monitor.step_result import Spike, StepResult
from distrain.parallel.collectives import HostGroup
from distrain.runs.folder import StageFolder
from distrain.runs.records import read_json, utc_now, write_json
from distrain.runs.skips import Skip, append_skip, digest, find_skip, read_skips
from distrain.train.spikes import SpikeFinder

SKIPS, USUAL = "skips", "usual"
"""Fields of a checkpoint's ``extra``; those of older versions have neither."""


class Guards:
    """Finds spikes, decides by ``training.on_spike``, and knows all earlier decisions.

    Args:
        config: Of the stage.
        folder: Where decisions are kept.
        host: All ranks.
    """

    def __init__(self, config: TrainingConfig, folder: StageFolder, host: HostGroup) -> None:
        self.on_spike = config.on_spike
        self.skips: tuple[Skip, ...] = ()
        self._config = config.spikes
        self._folder = folder
        self._host = host
        self._finder = SpikeFinder(config.spikes)

    @property
    def rewinds(self) -> bool:
        """Whether training may go back to a checkpoint."""
        return self.on_spike == "rewind"

    @property
    def refuses(self) -> bool:
        """Whether the update of a step that is a spike is not made."""
        return self.on_spike != "report"

    def find(self, loss: float, grad_norm: float) -> Spike | None:
        """Judge a step by what all ranks found of it."""
        return self._finder.find(loss, grad_norm)

    def skip_of(self, batch: Batch) -> Skip | None:
        """Return the decision by which this batch is left out."""
        return find_skip(self.skips, batch.first_sample, batch.num_samples)

    def count(self, result: StepResult) -> None:
        """Take an applied step for usual, whether or not it was a spike."""
        if result.applied:
            self._finder.take(result.loss, result.grad_norm)

    def leave_out_one(self, step: int, result: StepResult) -> None:
        """Decide that a step is left out in its place. Collective.

        Args:
            step: Of the spike, from 1.
            result: What it showed, which its record will say again after a restart.
        """
        assert result.spike is not None, "only a spike is left out"
        end = result.first_sample + result.num_samples
        measured = {"loss": result.loss, "grad_norm": result.grad_norm, **result.others}
        self._add(
            Skip(step, step, result.first_sample, end, result.spike.metric, step, None, measured)
        )

    def leave_out_window(
        self, step: int, spike: Spike, schedule: Schedule, *, max_steps: int, newest: list[int]
    ) -> Skip:
        """Decide that the steps around a spike are left out and training goes back. Collective.

        Args:
            step: Of the spike, from 1.
            spike: What it was.
            schedule: Says which samples the steps read.
            max_steps: Of the stage.
            newest: Steps of the checkpoints that are there.

        Raises:
            TrainingError: It would be one rewind too many.
        """
        self._check_number(step, spike)
        earliest = max(1, step - self._config.steps_before)
        latest = min(max_steps, step + self._config.steps_after)
        first = last = step
        # Up to what is left out already: every step is left out by one decision.
        while first > earliest and self._is_used(schedule, first - 1):
            first -= 1
        while last < latest and self._is_used(schedule, last + 1):
            last += 1
        first_sample, _ = schedule.samples_of(first - 1)
        end_sample = sum(schedule.samples_of(last - 1))
        target = max((number for number in newest if number < first), default=0)
        skip = Skip(first, last, first_sample, end_sample, spike.metric, step, target)
        self._add(skip)
        return skip

    def _is_used(self, schedule: Schedule, step: int) -> bool:
        return find_skip(self.skips, *schedule.samples_of(step - 1)) is None

    def _check_number(self, step: int, spike: Spike) -> None:
        made = [skip for skip in self.skips if skip.rewound_to is not None]
        if len(made) < self._config.max_rewinds:
            return
        before = ", ".join(str(skip.decided_at_step) for skip in made[-5:])
        raise TrainingError(
            f"step {step}",
            f"a {spike.metric} of {spike.value:.4g}, above {spike.limit:.4g}, after {len(made)} "
            f"rewinds (the last ones at steps {before})",
            f"no spike after {self._config.max_rewinds} rewinds (training.spikes.max_rewinds)",
            "Look at what these steps read (`distrain data seen`) and at the learning rate. To go "
            "on all the same, raise training.spikes.max_rewinds, or set training.on_spike to "
            "report.",
        )

    def _add(self, skip: Skip) -> None:
        try:
            # On disk before anything follows from it: a killed run finds the decision, or makes
            # the same one again.
            on_first(self._host, lambda: append_skip(self._folder, skip))
        except FailedError as failure:
            raise CheckpointError(
                str(self._folder.skips),
                str(failure),
                "a file that can be written: which steps are left out must outlive this process",
                "Free or repair the file system, then run the same command again: the step will be "
                "judged again.",
            ) from failure
        self.skips = (*self.skips, skip)

    def read(self) -> None:
        """Read all decisions. Collective.

        Raises:
            CheckpointError: The file is damaged.
        """
        self.skips = on_first(self._host, lambda: read_skips(self._folder))

    def extra(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: which decisions its state obeys, and what is usual."""
        return {
            SKIPS: {"count": len(self.skips), "digest": digest(self.skips)},
            USUAL: self._finder.to_json(),
        }

    def restore(self, extra: Mapping[str, Any]) -> None:
        """Take over what a checkpoint knew."""
        self._finder.load(extra.get(USUAL, {}))

    def refuse_lost(self, extra: Mapping[str, Any]) -> None:
        """Refuse a checkpoint that was made with decisions which are gone.

        Raises:
            CheckpointError: The file lacks them, or has others in their place.
        """
        count, known = _known(extra)
        if count == 0 or digest(self.skips[:count]) == known:
            return
        raise CheckpointError(
            str(self._folder.skips),
            f"{len(self.skips)} decisions on steps that are left out, without the {count} that the "
            f"checkpoint of step {extra['progress']['step']} was made with",
            "the file to which that run has written",
            "Restore it from a copy of the run folder. Without it, training would go on from a "
            "state that nobody could make again.",
        )

    def find_left_out(self, extra: Mapping[str, Any]) -> str | None:
        """Say why a checkpoint is not one to go on from: it holds a step that is left out since."""
        count, known = _known(extra)
        if count and digest(self.skips[:count]) != known:
            return None  # worse than that; see ``refuse_lost``
        step = int(extra["progress"]["step"])
        if step == 0:
            return None
        read = sum(Schedule.from_json(extra["data"]["schedule"]).samples_of(step - 1))
        for skip in self.skips[count:]:
            if skip.first_sample < read:
                return f"made with steps {skip.first_step} to {skip.last_step}, left out since"
        return None

    def spans_left_out(self, schedule: Schedule, steps: int) -> list[tuple[int, int]]:
        """Return the samples of the steps that decisions leave out, among the first ``steps``.

        Of whole steps: where the batch size was changed since, a decision may hold a part of one.
        """
        spans = []
        for skip in self.skips:
            first, last = (
                schedule.step_of(sample) for sample in (skip.first_sample, skip.end_sample - 1)
            )
            if first < steps:
                begin, _ = schedule.samples_of(first)
                spans.append((begin, sum(schedule.samples_of(min(last, steps - 1)))))
        return spans

    def tell_step(self, step: int) -> None:
        """Let the stage's state say how far it is after a rewind; on rank 0."""
        state = read_json(self._folder.state) or {}
        write_json(self._folder.state, state | {"step": step, "time": utc_now()})


def _known(extra: Mapping[str, Any]) -> tuple[int, str]:
    """Return number and digest of the decisions that a checkpoint's state obeys."""
    known = extra.get(SKIPS, {"count": 0, "digest": ""})
    return int(known["count"]), str(known["digest"])
