"""How many processes and steps a stage gets and how its batch is cut over ranks. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from math import prod
from typing import Literal

from distrain.config.recipe import FinetuneStage, Recipe, TrainStage
from distrain.config.training import ParallelismConfig, TrainingConfig
from distrain.errors import RecipeError

Strategy = Literal["single", "ddp", "fsdp", "deepspeed"]


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction in which the ranks of a stage are arranged."""

    name: str
    size: int
    """Ranks along it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the ranks of a stage are arranged; nothing is ``auto`` any more.

    The batch is cut over the data axes, replicate and shard. Ranks that differ only along
    another axis read the same part of it: they are copies as far as data and sums go.
    """

    strategy: Strategy
    zero_stage: Literal[1, 2, 3]
    """Of ``deepspeed``."""
    dp_replicate: int
    """Copies of the group of ranks that holds one model."""
    dp_shard: int
    """Ranks over which each parameter is cut."""
    outer: tuple[Axis, ...] = ()
    """Further axes around the data axes (as of pipeline stages): their ranks lie far apart."""
    inner: tuple[Axis, ...] = ()
    """Further axes within the data axes (as of tensors, context): their ranks are neighbours."""

    @property
    def data_axes(self) -> tuple[Axis, Axis]:
        """The axes over which the batch is cut and sums are taken."""
        return Axis("replicate", self.dp_replicate), Axis("shard", self.dp_shard)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """All axes from the outermost in; the last one's place changes from rank to rank."""
        return (*self.outer, *self.data_axes, *self.inner)

    @property
    def dp_size(self) -> int:
        """Parts into which a global batch is cut."""
        return self.dp_replicate * self.dp_shard

    @property
    def world_size(self) -> int:
        """The product of the degrees: the number of processes."""
        return prod(axis.size for axis in self.axes)


def resolve_layout(parallelism: ParallelismConfig, world_size: int) -> Layout:
    """Choose the degrees that are ``auto`` so that their product is ``world_size``.

    Raises:
        RecipeError: The stated degrees do not fit the strategy or the number of processes.
    """
    strategy = parallelism.strategy
    if strategy == "auto":
        strategy = "single" if world_size == 1 else "fsdp"
    if strategy == "single" and world_size > 1:
        raise RecipeError(
            "parallelism.strategy",
            f"single with {world_size} processes",
            "1 process",
            "Set parallelism.strategy to fsdp, or launch.processes_per_node and launch.nodes to 1.",
        )
    replicate, shard = parallelism.data_parallel_replicate, parallelism.data_parallel_shard
    if strategy in ("single", "ddp"):
        _refuse_degree("data_parallel_shard", shard, strategy)
        shard = 1
    if strategy in ("single", "deepspeed"):
        _refuse_degree("data_parallel_replicate", replicate, strategy)
        replicate = 1
    if replicate == "auto":
        replicate = world_size if strategy == "ddp" else 1
    if shard == "auto":
        shard = _quotient(world_size, replicate, "data_parallel_replicate")
    if replicate * shard != world_size:
        _raise_product(replicate, shard, world_size)
    return Layout(strategy, parallelism.zero_stage, replicate, shard)


def _refuse_degree(name: str, degree: int | Literal["auto"], strategy: str) -> None:
    if degree in ("auto", 1):
        return
    use = "fsdp" if strategy in ("single", "deepspeed") or name == "data_parallel_shard" else "ddp"
    raise RecipeError(
        f"parallelism.{name}",
        f"{degree} with strategy {strategy}",
        "1 or auto",
        f"Set parallelism.{name} to auto, or parallelism.strategy to {use}.",
    )


def _quotient(world_size: int, degree: int, name: str) -> int:
    if world_size % degree == 0:
        return world_size // degree
    values = ", ".join(map(str, _divisors(world_size)))
    raise RecipeError(
        f"parallelism.{name}",
        f"{degree}, which does not divide {world_size} processes",
        f"one of {values}",
        f"Set parallelism.{name} to {_nearest(degree, _divisors(world_size))}, or choose "
        f"launch.nodes * launch.processes_per_node as a multiple of {degree}.",
    )


def _raise_product(replicate: int, shard: int, world_size: int) -> None:
    if world_size % replicate == 0:
        remedy = f"Set parallelism.data_parallel_shard to {world_size // replicate}."
    elif world_size % shard == 0:
        remedy = f"Set parallelism.data_parallel_replicate to {world_size // shard}."
    else:
        remedy = (
            "Choose launch.nodes * launch.processes_per_node as "
            f"{replicate * shard}, or set both degrees to auto."
        )
    raise RecipeError(
        "parallelism",
        f"dp_replicate {replicate} * dp_shard {shard} = {replicate * shard} ranks",
        f"{world_size} ranks (launch.nodes * launch.processes_per_node)",
        remedy,
    )


def microbatches_per_rank(training: TrainingConfig, dp_size: int) -> int:
    """Return the microbatches that each rank accumulates in one step.

    A rank whose share is smaller than ``micro_batch_size`` takes it as one microbatch.

    Args:
        training: The stage's section.
        dp_size: Ranks over which the batch is cut; see ``Layout``.

    Raises:
        RecipeError: The ranks' shares, or the microbatches of a share, would be unequal.
    """
    batch, limit = training.global_batch_size, training.micro_batch_size
    if batch % dp_size:
        below, above = batch - batch % dp_size, batch + dp_size - batch % dp_size
        values = f"{below} or {above}" if below else str(above)
        raise RecipeError(
            "training.global_batch_size",
            f"{batch} sequences for {dp_size} ranks",
            f"a multiple of {dp_size}",
            f"Set training.global_batch_size to {values}, or use "
            f"{_nearest(dp_size, _divisors(batch))} processes.",
        )
    share = batch // dp_size
    if share <= limit:
        return 1
    if share % limit:
        fitting = _nearest(limit, [size for size in _divisors(share) if size <= limit])
        step = dp_size * limit
        raise RecipeError(
            "training.micro_batch_size",
            f"{limit} for a share of {share} sequences a rank "
            f"({batch} sequences / {dp_size} ranks)",
            f"a divisor of {share}",
            f"Set training.micro_batch_size to {fitting}, or training.global_batch_size to "
            f"{batch - batch % step + step}.",
        )
    return share // limit


def count_steps(training: TrainingConfig, num_samples: int | None = None) -> int | None:
    """Return the optimizer steps of a stage, however the recipe states its length.

    A part of a global batch is no step: the result is rounded down, and may be 0.

    Args:
        training: Its ``training`` section.
        num_samples: Samples of the train split in one epoch, where they have been counted.

    Returns:
        ``None`` where only the data can tell (``num_epochs``) and nobody has counted them.
    """
    batch = training.global_batch_size
    if training.max_steps is not None:
        return training.max_steps
    if training.max_tokens is not None:
        return training.max_tokens // (batch * training.sequence_length)
    if training.num_epochs is None or num_samples is None:
        return None
    return int(training.num_epochs * num_samples / batch)


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def _nearest(number: int, choices: list[int]) -> int:
    return min(choices, key=lambda choice: abs(choice - number))


def stage_order(recipe: Recipe) -> tuple[str, ...]:
    """Return the stages so that each follows those it needs, else in the order of the file."""
    return order_of({name: stage.needs for name, stage in recipe.stages.items()})


def order_of(needs: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Sort stage names by what they need; stable.

    Raises:
        graphlib.CycleError: They need each other in a circle.
    """
    rank = {name: number for number, name in enumerate(needs)}
    sorter = TopologicalSorter(needs)
    sorter.prepare()
    ordered: list[str] = []
    ready: list[str] = []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()], key=rank.__getitem__)
        first = ready.pop(0)
        ordered.append(first)
        sorter.done(first)
    return tuple(ordered)


def require_replicas(stage: TrainStage, layout: Layout) -> None:
    """Refuse to cut weights over ranks that are kept in 4 bits: codes are no rows of numbers.

    Raises:
        RecipeError: The engine would cut them.
    """
    quantizes = isinstance(stage, FinetuneStage) and stage.lora and stage.lora.quantization
    if quantizes and layout.strategy not in ("single", "ddp"):
        raise RecipeError(
            "parallelism.strategy",
            f"{layout.strategy} with lora.quantization, whose weights cannot be cut over ranks",
            "single or ddp",
            "Set parallelism.strategy to ddp, or lora.quantization to null.",
        )
