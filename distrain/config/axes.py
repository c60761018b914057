"""Which axes go together, which degrees fit a size, and one layout of a stage's batch. Pure."""

from collections.abc import Mapping
from math import gcd

from distrain.config.layout import (
    AXIS_SETTINGS,
    MODEL_AXES,
    Layout,
    microbatches_per_rank,
    resolve_layout,
)
from distrain.config.pipeline import require_schedule
from distrain.config.training import ParallelismConfig, TrainingConfig

REFUSED_PAIRS: Mapping[frozenset[str], str] = {
    frozenset({"pipeline", "context"}): (
        "stages would pass stripes of columns on, and count positions as of whole rows"
    ),
}
"""Axes that are not taken together, each with the reason. All go with FSDP2, and with HSDP."""


def degrees_of(parallelism: ParallelismConfig) -> dict[str, int]:
    """Return the axes besides those of data that have several ranks, with their degrees."""
    degrees = {axis: getattr(parallelism, AXIS_SETTINGS[axis]) for axis in MODEL_AXES}
    return {axis: degree for axis, degree in degrees.items() if degree > 1}


def fitting_degrees(degree: int, *sizes: int) -> str:
    """Name the degrees next to one, below and above, that divide all sizes."""
    common = gcd(*sizes)
    divisors = [size for size in range(1, common + 1) if common % size == 0]
    below = max((size for size in divisors if size < degree), default=None)
    above = min((size for size in divisors if size > degree), default=None)
    return " or ".join(str(size) for size in (below, above) if size is not None)


def lay_out(
    parallelism: ParallelismConfig, training: TrainingConfig, world_size: int
) -> tuple[Layout, int]:
    """Return the layout of a stage over its processes, and each rank's microbatches in a step.

    Raises:
        RecipeError: The degrees do not multiply to the processes, the batch does not divide over
            the ranks that read other rows, or the schedule of a pipeline cannot run such a part.
    """
    layout = resolve_layout(parallelism, world_size)
    microbatches = microbatches_per_rank(training, layout.dp_size, world_size // layout.dp_size)
    pipeline = layout.size("pipeline")
    if pipeline > 1:
        schedule, chunks = parallelism.pipeline_schedule, parallelism.pipeline_chunks
        require_schedule(schedule, pipeline, chunks, microbatches)
    return layout, microbatches
