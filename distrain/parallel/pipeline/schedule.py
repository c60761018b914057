"""torch's pipeline schedules by the names of recipes, run over the microbatches of a step."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.pipelining.schedules import (
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleLoopedBFS,
    _PipelineSchedule,
)

from distrain.config.pipeline import PipelineSchedule
from distrain.parallel.pipeline.stage import MicrobatchStage

SCHEDULES: dict[PipelineSchedule, type[_PipelineSchedule]] = {
    "gpipe": ScheduleGPipe,
    "1f1b": Schedule1F1B,
    "interleaved_1f1b": ScheduleInterleaved1F1B,
    "zero_bubble": ScheduleInterleavedZeroBubble,
}


class Runner:
    """Runs the microbatches of a step, or of a validation, through this rank's stages.

    A schedule is a fixed order of passes, so there is one for each number of microbatches, made
    when it is first needed.

    Args:
        name: Of the schedule, while training.
        make_stages: Makes this rank's stages anew: a stage belongs to one schedule.
    """

    def __init__(
        self, name: PipelineSchedule, make_stages: Callable[[], list[MicrobatchStage]]
    ) -> None:
        self._name = name
        self._make_stages = make_stages
        self._made: dict[tuple[int, bool], tuple[_PipelineSchedule, bool]] = {}

    def train(self, microbatches: int) -> None:
        """Run forward and backward passes. Collective over the pipeline."""
        self._step(microbatches, trains=True)

    @torch.no_grad()
    def measure(self, microbatches: int) -> None:
        """Run forward passes only. Collective over the pipeline."""
        self._step(microbatches, trains=False)

    def _step(self, microbatches: int, *, trains: bool) -> None:
        key = microbatches, trains
        if key not in self._made:
            self._made[key] = self._make(microbatches, trains)
        schedule, has_last = self._made[key]
        numbers = torch.arange(microbatches)
        # torch asks for a target of each microbatch whose loss it takes.
        target = numbers if trains and has_last else None
        try:
            schedule.step(target=target, return_outputs=False, numbers=numbers)
        except RuntimeError as error:
            # torch describes the tensors of a stage that failed; what it failed of lies beneath.
            if not isinstance(error.__cause__, Exception):
                raise
            cause = error.__cause__
        else:
            return
        raise cause

    def _make(self, microbatches: int, trains: bool) -> tuple[_PipelineSchedule, bool]:
        stages = self._make_stages()
        several = len(stages) > 1
        kind: Any = SCHEDULES[self._name]
        if not trains:
            kind = ScheduleLoopedBFS if several else ScheduleGPipe
        elif kind is Schedule1F1B and microbatches < stages[0].num_stages:
            kind = ScheduleGPipe  # with so few there is nothing to alternate: the same order
        takes_list = kind not in (ScheduleGPipe, Schedule1F1B)
        schedule: _PipelineSchedule = kind(
            stages if takes_list else stages[0],
            n_microbatches=microbatches,
            loss_fn=_objective if trains else None,
            scale_grads=False,  # the loop has divided by what the whole batch holds
        )
        return schedule, any(stage.is_last for stage in stages)


def _objective(output: Tensor, number: Tensor) -> Tensor:
    """Return what the last stage gave: it is what is made smaller."""
    del number
    return output.sum()
