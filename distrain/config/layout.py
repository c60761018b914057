"""How many processes and steps a stage gets and how its batch is cut over ranks. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from math import prod
from typing import Literal

from distrain.config.recipe import FinetuneStage, Recipe, TrainStage
from distrain.config.training import ParallelismConfig, TrainingConfig
from distrain.errors import RecipeError

Strategy = Literal["single", "ddp", "fsdp", "deepspeed"]


Role = Literal["copies", "tensors", "columns", "rows", "stages"]
"""What ranks along an axis have of a batch: ``rows`` others of its rows, ``columns`` other
positions of the same rows. ``tensors``, ``stages`` and ``copies`` read the same, with another part
of the model, other layers of it, or the same state once more."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction in which the ranks of a stage are arranged."""

    name: str
    size: int
    """Ranks along it."""
    role: Role = "copies"


@dataclass(frozen=True, slots=True)
class Layout:
    """How the ranks of a stage are arranged; nothing is ``auto`` any more.

    The rows of a batch are cut over the data axes: replicate, shard, and where experts are cut.
    Ranks that differ only along another axis read the same rows.
    """

    strategy: Strategy
    zero_stage: Literal[1, 2, 3]
    """Of ``deepspeed``."""
    dp_replicate: int
    """Copies of the group of ranks that holds one model."""
    dp_shard: int
    """Ranks over which each parameter is cut."""
    outer: tuple[Axis, ...] = ()
    """Further axes around the data axes (pipeline): their ranks lie far apart."""
    inner: tuple[Axis, ...] = ()
    """Further axes within the data axes (context, expert, tensor): their ranks are neighbours."""

    @property
    def data_axes(self) -> tuple[Axis, ...]:
        """The axes over which the rows of the batch are cut."""
        return tuple(axis for axis in self.axes if axis.role == "rows")

    @property
    def axes(self) -> tuple[Axis, ...]:
        """All axes from the outermost in; the last one's place changes from rank to rank."""
        replicate = Axis("replicate", self.dp_replicate, "rows")
        shard = Axis("shard", self.dp_shard, "rows")
        return (*self.outer, replicate, shard, *self.inner)

    def size(self, name: str) -> int:
        """Return the number of ranks along an axis; 1 if there is no such axis."""
        return next((axis.size for axis in self.axes if axis.name == name), 1)

    @property
    def has_axes(self) -> bool:
        """Whether the model itself is cut along some axis, besides FSDP2's."""
        return any(axis.size > 1 for axis in (*self.outer, *self.inner))

    @property
    def dp_size(self) -> int:
        """Parts into which the rows of a global batch are cut."""
        return prod(axis.size for axis in self.data_axes)

    @property
    def world_size(self) -> int:
        """The product of the degrees: the number of processes."""
        return prod(axis.size for axis in self.axes)


AXIS_SETTINGS = {
    "pipeline": "pipeline_parallel",
    "replicate": "data_parallel_replicate",
    "shard": "data_parallel_shard",
    "context": "context_parallel",
    "expert": "expert_parallel",
    "tensor": "tensor_parallel",
}
"""Axes from the outermost in, and what they are called in a recipe."""
MODEL_AXES: dict[str, Role] = {
    "pipeline": "stages",
    "context": "columns",
    "expert": "rows",
    "tensor": "tensors",
}
"""Those that only ``fsdp`` has."""
OUTER_AXES = ("pipeline",)
STRIPE = 8
"""Neighbouring columns of a row that lie on one rank of the context axis."""
BUILT_AXES: frozenset[str] = frozenset({"context", "expert", "pipeline", "tensor"})
"""Of MODEL_AXES, those that the runtime can build by now."""


def resolve_layout(parallelism: ParallelismConfig, world_size: int) -> Layout:
    """Choose the degrees that are ``auto`` so that their product is ``world_size``.

    Raises:
        RecipeError: The stated degrees do not fit the strategy or the number of processes.
    """
    strategy = parallelism.strategy
    is_cut = any(getattr(parallelism, AXIS_SETTINGS[name]) > 1 for name in MODEL_AXES)
    if strategy == "auto":
        strategy = "single" if world_size == 1 and not is_cut else "fsdp"
    if strategy == "single" and world_size > 1:
        remedy = "Set parallelism.strategy to fsdp"
        if not is_cut:  # what is cut needs its processes
            remedy += ", or launch.processes_per_node and launch.nodes to 1"
        raise RecipeError(
            "parallelism.strategy", f"single with {world_size} processes", "1 process", f"{remedy}."
        )
    further = _model_axes(parallelism, strategy)
    model_size = _product(further)
    if world_size % model_size:
        _raise_model_axes(further, world_size)
    data_size = world_size // model_size
    replicate, shard = parallelism.data_parallel_replicate, parallelism.data_parallel_shard
    if strategy in ("single", "ddp"):
        _refuse_degree("data_parallel_shard", shard, strategy)
        shard = 1
    if strategy in ("single", "deepspeed"):
        _refuse_degree("data_parallel_replicate", replicate, strategy)
        replicate = 1
    if replicate == "auto":
        replicate = data_size if strategy == "ddp" else 1
    if shard == "auto":
        shard = _quotient(data_size, replicate, "data_parallel_replicate")
    if replicate * shard != data_size:
        _raise_product(replicate, shard, data_size, further)
    outer = tuple(axis for axis in further if axis.name in OUTER_AXES)
    inner = tuple(axis for axis in further if axis.name not in OUTER_AXES)
    return Layout(strategy, parallelism.zero_stage, replicate, shard, outer, inner)


def _model_axes(parallelism: ParallelismConfig, strategy: Strategy) -> tuple[Axis, ...]:
    """Return the axes besides those of data that have several ranks, from the outermost in."""
    axes = []
    for name, role in MODEL_AXES.items():
        setting = AXIS_SETTINGS[name]
        size: int = getattr(parallelism, setting)
        if size == 1:
            continue
        if strategy != "fsdp":
            raise RecipeError(
                f"parallelism.{setting}",
                f"{size} with strategy {strategy}",
                "1, or strategy fsdp",
                f"Set parallelism.strategy to fsdp, or parallelism.{setting} to 1.",
            )
        if name not in BUILT_AXES:
            raise RecipeError(f"parallelism.{setting}", str(size), "1", "It is not there yet.")
        axes.append(Axis(name, size, role))
    return tuple(axes)


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


def _raise_product(
    replicate: int, shard: int, data_size: int, further: Sequence[Axis] = ()
) -> None:
    if data_size % replicate == 0:
        remedy = f"Set parallelism.data_parallel_shard to {data_size // replicate}."
    elif data_size % shard == 0:
        remedy = f"Set parallelism.data_parallel_replicate to {data_size // shard}."
    else:
        remedy = (
            "Choose launch.nodes * launch.processes_per_node as "
            f"{replicate * shard * _product(further)}, or set both degrees to auto."
        )
    others = "".join(f" * {AXIS_SETTINGS[axis.name]} {axis.size}" for axis in further)
    raise RecipeError(
        "parallelism",
        f"data_parallel_replicate {replicate} * data_parallel_shard {shard}{others} = "
        f"{replicate * shard * _product(further)} ranks",
        f"{data_size * _product(further)} ranks (launch.nodes * launch.processes_per_node)",
        remedy,
    )


def _raise_model_axes(further: Sequence[Axis], world_size: int) -> None:
    degrees = " * ".join(f"{AXIS_SETTINGS[axis.name]} {axis.size}" for axis in further)
    size = _product(further)
    above = -(-world_size // size) * size
    largest = max(further, key=lambda axis: axis.size)
    others = size // largest.size
    fitting = [degree for degree in _divisors(world_size) if world_size % (others * degree) == 0]
    start = f"tart a multiple of {size} processes, as {above}."
    nearest = f"Set parallelism.{AXIS_SETTINGS[largest.name]} to {_nearest(largest.size, fitting)}"
    product = f"{degrees} = {size}" if len(further) > 1 else degrees
    raise RecipeError(
        "parallelism",
        f"{product}, which does not divide {_processes(world_size)}",
        f"a divisor of {world_size} (launch.nodes * launch.processes_per_node)",
        # More processes need not help: sizes of the model are to divide, too.
        f"{nearest}, or s{start}" if fitting else f"S{start}",
    )


def _processes(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"


def _product(axes: Sequence[Axis]) -> int:
    return prod(axis.size for axis in axes)


def microbatches_per_rank(training: TrainingConfig, dp_size: int, ranks_of_a_part: int = 1) -> int:
    """Return the microbatches that each rank accumulates in one step.

    A rank whose share is smaller than ``micro_batch_size`` takes it as one microbatch.

    Args:
        training: The stage's section.
        dp_size: Parts into which the batch is cut; see ``Layout``.
        ranks_of_a_part: That read the same rows.

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
            f"{_processes(_nearest(dp_size, _divisors(batch)) * ranks_of_a_part)}.",
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
