"""Which rank of a stage holds what: rows, layers, heads, experts; and where ranks sit. Pure.

Only of stages that cut their model along further axes; FSDP2 alone cuts everything evenly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from distrain.config.layout import AXIS_SETTINGS, STRIPE, Layout
from distrain.config.models import ModelConfig
from distrain.config.models.tensor_plan import cuts_columns, cuts_heads, plan_of
from distrain.config.pipeline import layers_of_stages, stages_of_rank
from distrain.config.recipe import TrainStage
from launcher.text import plural

WITHIN_NODES = ("tensor", "expert")
"""Axes whose ranks exchange activations in every layer."""
MOST_PARTS = 4
"""Shown of one kind; of more, the first ones and the last."""


@dataclass(frozen=True)
class Holding:
    """How one thing is divided.

    Args:
        what: Is divided, in words.
        axes: Over which, with their degrees, from the outermost in.
        parts: What ranks hold, by their place along these axes, the last of which counts fastest.
    """

    what: str
    axes: tuple[tuple[str, int], ...]
    parts: tuple[str, ...]

    @property
    def over(self) -> str:
        """The axes, as ``shard 2 x expert 2``."""
        return " x ".join(f"{name} {size}" for name, size in self.axes)

    @property
    def shown(self) -> str:
        """The parts on one line."""
        parts = self.parts
        if len(parts) > MOST_PARTS:
            parts = (*parts[: MOST_PARTS - 1], "...", parts[-1])
        return " | ".join(parts)


def holdings_of(
    stage: TrainStage, layout: Layout, model: ModelConfig | None, vocab_size: int | None
) -> list[Holding]:
    """List what the ranks of a stage hold; empty where no axis but those of data has several.

    Args:
        stage: Its sections.
        layout: Of its ranks.
        model: That it trains; ``None``: nothing is known of its layers, heads and experts.
        vocab_size: Rows of the embedding; ``None`` likewise.
    """
    if not layout.has_axes:
        return []
    found = [_rows(stage, layout)]
    context, tensor, expert = (layout.size(name) for name in ("context", "tensor", "expert"))
    if context > 1:
        stripes = tuple(f"{place + 1}, {place + 1 + context}, ..." for place in range(context))
        words = f"{stage.training.sequence_length:,} columns, in stripes of {STRIPE}"
        found.append(Holding(words, (("context", context),), stripes))
    if layout.size("pipeline") > 1 and model is not None and model.size_of("num_hidden_layers"):
        found.append(_layers(stage, layout, model, vocab_size))
    sizes: list[tuple[str, str, int | None]] = []
    if tensor > 1 and model is not None:
        heads = model.size_of("num_attention_heads")
        key_heads = model.size_of("num_key_value_heads") or heads
        plan = plan_of(model, stage.parallelism.tp_plan)
        if cuts_heads(plan):
            sizes += [("heads", "tensor", heads), ("heads of keys and values", "tensor", key_heads)]
        if cuts_columns(plan):
            columns = model.size_of("intermediate_size") or model.size_of("n_inner")
            sizes += [("columns of a feed-forward layer", "tensor", columns)]
        sizes += [("rows of the vocabulary", "tensor", vocab_size)]
    if expert > 1 and model is not None:
        sizes += [("experts of a layer", "expert", model.num_experts)]
    found += [
        Holding(what, ((axis, layout.size(axis)),), _ranges(size, layout.size(axis)))
        for what, axis, size in sizes
        if size
    ]
    return [*found, *_parameters(layout)]


def _rows(stage: TrainStage, layout: Layout) -> Holding:
    axes = tuple((axis.name, axis.size) for axis in layout.data_axes if axis.size > 1)
    batch = stage.training.global_batch_size
    return Holding(
        f"{batch:,} rows of a batch", axes or (("shard", 1),), _ranges(batch, layout.dp_size)
    )


def _layers(
    stage: TrainStage, layout: Layout, model: ModelConfig, vocab_size: int | None
) -> Holding:
    pipeline, chunks = layout.size("pipeline"), stage.parallelism.pipeline_chunks
    cuts = layers_of_stages(model, vocab_size or 1, pipeline * chunks)
    parts = []
    for place in range(pipeline):
        numbers = stages_of_rank(place, pipeline, chunks)
        words = [_range(cuts[number].start, cuts[number].stop) for number in numbers]
        if place == 0:
            words.insert(0, "embedding")
        if numbers[-1] == pipeline * chunks - 1:
            words.append("output")
        parts.append(", ".join(words))
    return Holding("layers", (("pipeline", pipeline),), tuple(parts))


def _parameters(layout: Layout) -> Iterator[Holding]:
    """Say over which ranks FSDP2 cuts what the other axes leave to a rank."""
    names = ("shard", "context", "expert")
    axes = tuple((name, layout.size(name)) for name in names if layout.size(name) > 1)
    if axes:
        part = f"each rank 1 of {prod(size for _, size in axes)} parts"
        yield Holding("parameters, by FSDP2", axes, (part,))


def _ranges(size: int, parts: int) -> tuple[str, ...]:
    """Cut as ``torch.chunk`` does; the last parts may be smaller."""
    step = -(-size // parts)
    starts = [min(part * step, size) for part in range(parts)]
    return tuple(_range(start, min(start + step, size)) for start in starts)


def _range(start: int, stop: int) -> str:
    if start >= stop:
        return "none"
    return f"{start:,}" if stop == start + 1 else f"{start:,}-{stop - 1:,}"


def axes_across_nodes(layout: Layout, processes_per_node: int) -> list[str]:
    """Return the axes some of whose groups of ranks lie on several nodes, from the outermost in."""
    across, stride = [], 1
    for axis in reversed(layout.axes):
        members = range(0, axis.size * stride, stride)
        blocks = range(0, layout.world_size, axis.size * stride)
        # Ranks of a group are ``stride`` apart; those between them are of other groups alike.
        groups = ([first + own + m for m in members] for first in blocks for own in range(stride))
        if any(len({rank // processes_per_node for rank in group}) > 1 for group in groups):
            across.append(axis.name)
        stride *= axis.size
    return across[::-1]


def placement_note(name: str, layout: Layout, nodes: int, processes_per_node: int) -> str | None:
    """Warn where ranks that exchange activations in every layer lie on several nodes."""
    across = axes_across_nodes(layout, processes_per_node) if nodes > 1 else []
    slow = [axis for axis in across if axis in WITHIN_NODES]
    if not slow:
        return None
    settings = " and ".join(f"{AXIS_SETTINGS[axis]} {layout.size(axis)}" for axis in slow)
    inner = prod(layout.size(axis) for axis in WITHIN_NODES)
    each = plural(processes_per_node, "process")
    return (
        f"{name}: ranks of {settings} lie on several nodes of {each}, and exchange "
        "activations over the network in every layer; choose degrees whose product "
        f"({inner}) divides the processes of a node"
    )


def sitting(layout: Layout, processes_per_node: int) -> str:
    """Say which axes lie within a node and which go across."""
    across = axes_across_nodes(layout, processes_per_node)
    several = [axis.name for axis in layout.axes if axis.size > 1]
    within = [name for name in several if name not in across]
    parts = [
        f"{', '.join(names)} {where}"
        for names, where in ((within, "within a node"), (across, "across nodes"))
        if names
    ]
    return "; ".join(parts)
