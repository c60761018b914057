"""Section of layer 3: how prepared sources become the samples of a run."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from distrain.config.section import Count, Duration, Section

Weight = Annotated[float, Field(gt=0)]
Weights = Annotated[dict[str, Weight], Field(min_length=1)]


class MixtureSegment(Section):
    """Weights that hold from a step on."""

    from_step: Annotated[int, Field(ge=0)]
    weights: Weights


class OrderConfig(Section):
    """In which order the samples of a source are read; every epoch reads each once."""

    kind: Literal["auto", "full", "blocks"] = "auto"
    """``full``: any sample may follow any other. ``blocks``: samples are mixed within windows of
    blocks, so that remote shards are read in large pieces. ``auto``: blocks for remote shards."""
    block_samples: Annotated[int, Field(ge=1)] = 256
    """Neighbours that are read at about the same time."""
    window_blocks: Annotated[int, Field(ge=1)] = 64
    """Blocks that are mixed with each other; more than a batch should fit."""


class CacheConfig(Section):
    """How a node keeps blocks of remote shards, and how long a rank waits for data."""

    folder: str | None = None
    """On a local disk of each node; its processes share it. Default: ``$DISTRAIN_CACHE_DIR``, else
    a folder of this user in the system's one for temporary files."""
    limit_bytes: Annotated[Count, Field(ge=1)] | None = None
    """What it may hold. Default: half of what is free on that disk when the run starts."""
    threads: Annotated[int, Field(ge=1)] = 4
    """Downloads ahead at a time, in each process."""
    stall_warning: Annotated[Duration, Field(ge=1)] = 30
    """A longer wait for data is logged, with what is waited for."""
    stall_deadline: Annotated[Duration, Field(ge=1)] = 300
    """A longer wait is an error that names it. Below the timeout of the collectives (30 minutes),
    or the rank that waits is blamed by its peers."""


class PretrainDataConfig(Section):
    """Which sources are read, in which shares, order and cut."""

    mixture: Weights | Annotated[tuple[MixtureSegment, ...], Field(min_length=1)] | None = None
    """Weights by source, or a list of ``{from_step, weights}``; a source without a weight is not
    read. Default: every sample of every source once an epoch. May change at a resume."""
    max_epochs: Annotated[float, Field(gt=0)] | dict[str, Annotated[float, Field(gt=0)]] | None = (
        None
    )
    """How often a source may be read, for all or by source; a run that needs more is refused."""
    packing: Literal["concat", "best_fit"] = "concat"
    """``concat``: the sources' tokens cut into equal stretches. ``best_fit``: as few documents as
    possible are cut, at the price of some padding."""
    order: OrderConfig = OrderConfig()
    prefetch: Annotated[int, Field(ge=0)] = 2
    """Batches made ahead."""
    num_threads: Annotated[int, Field(ge=1)] = 1
    """Threads that make them; more hide the latency of remote shards. Changes no batch."""
    cache: CacheConfig = CacheConfig()

    @model_validator(mode="after")
    def _begins_at_step_0(self) -> Self:
        if isinstance(self.mixture, tuple):
            steps = [segment.from_step for segment in self.mixture]
            if steps[0] != 0:
                raise ValueError(
                    f"the first weights of the mixture hold from step {steps[0]}; let the first "
                    "from_step be 0"
                )
            if steps != sorted(set(steps)):
                raise ValueError(
                    f"the mixture's steps are {', '.join(map(str, steps))}; "
                    "write each from_step once, in rising order"
                )
        return self

    @property
    def segments(self) -> Mapping[int, Mapping[str, float]] | None:
        """Weights by the step from which they hold; ``None`` for every sample once an epoch."""
        if self.mixture is None:
            return None
        if isinstance(self.mixture, dict):
            return {0: self.mixture}
        return {segment.from_step: segment.weights for segment in self.mixture}

    def epochs_allowed(self, source: str) -> float | None:
        """Return how often ``source`` may be read."""
        if isinstance(self.max_epochs, dict):
            return self.max_epochs.get(source)
        return self.max_epochs
