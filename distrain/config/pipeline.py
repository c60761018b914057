"""Which layers each pipeline stage holds, and which stages each rank. Pure, without torch.

Launcher and runtime both ask here, so `plan` shows what will be cut.
"""

from typing import Literal

from distrain.config.models import ModelConfig
from distrain.errors import RecipeError

PipelineSchedule = Literal["gpipe", "1f1b", "interleaved_1f1b", "zero_bubble"]
"""In which order a rank runs forward and backward passes of its microbatches. ``gpipe``: all
forward, then all backward (arXiv 1811.06965); ``1f1b``: alternating, so that fewer activations are
kept (2104.04473, section 2.2.1); ``interleaved_1f1b``: with several stages a rank (section 2.2.2);
``zero_bubble``: gradients of weights fill what would be idle (2401.10241, ZB-H1)."""
LOOPED: tuple[PipelineSchedule, ...] = ("interleaved_1f1b", "zero_bubble")
"""Schedules whose ranks may hold several stages each."""
GATED_MATRICES, PLAIN_MATRICES = 3, 2
"""Of a feed-forward layer with a gate (arXiv 2002.05202), and of one without."""


def layers_of_stages(model: ModelConfig, vocab_size: int, stages: int) -> tuple[range, ...]:
    """Cut a model's layers into stages that cost about the same.

    The first stage also looks up the embedding, which costs next to nothing; the last one also
    multiplies with the output layer, which costs as much as several layers where the vocabulary
    is large, and so holds fewer of them. Costs are weights of matrix products by the model's sizes.

    Args:
        model: Its section.
        vocab_size: Rows of the vocabulary.
        stages: Of the whole pipeline, several a rank included.

    Raises:
        RecipeError: There are more stages than layers, or nobody knows how many layers there are.
    """
    layers = model.size_of("num_hidden_layers")
    if not layers:
        raise RecipeError(
            "model",
            f"{model.family_name} without num_hidden_layers",
            "the number of layers, which pipeline stages are cut from",
            "State it under model.config, or set parallelism.pipeline_parallel to 1.",
        )
    if stages > layers:
        raise RecipeError(
            "parallelism.pipeline_parallel",
            f"{stages} stages (pipeline_parallel * pipeline_chunks) for {layers} layers",
            f"at most {layers}: each stage holds a layer",
            f"Choose pipeline_parallel * pipeline_chunks of at most {layers}.",
        )
    return cut_layers(layers, output_cost(model, vocab_size), stages)


def cut_layers(layers: int, output: float, stages: int) -> tuple[range, ...]:
    """Cut layers of one cost so that the most expensive stage costs the least.

    Args:
        layers: At least as many as stages.
        output: What the output layer costs, in layers.
        stages: At least one.

    Returns:
        The layers of each stage, in order; none is without.
    """
    if stages == 1:
        return (range(layers),)
    before = stages - 1

    def slowest(last: int) -> float:
        return max(-(-(layers - last) // before), last + output)

    # Of equally good cuts the one with most layers behind: early stages keep the activations of
    # more microbatches under 1F1B.
    last = min(range(layers - before, 0, -1), key=slowest)
    size, larger = divmod(layers - last, before)
    sizes = [size] * (before - larger) + [size + 1] * larger + [last]
    ends = [sum(sizes[: number + 1]) for number in range(stages)]
    return tuple(range(end - size, end) for size, end in zip(sizes, ends, strict=True))


def output_cost(model: ModelConfig, vocab_size: int) -> float:
    """Return the weights of the output layer over those that a token meets in a layer.

    An estimate from sizes that all layers share; 0 for a family that does not state its width.
    """
    width = model.size_of("hidden_size")
    if width is None:
        return 0.0
    heads = model.size_of("num_attention_heads") or 1
    head = model.size_of("head_dim") or width // heads
    key_heads = model.size_of("num_key_value_heads") or heads
    inner = model.size_of("intermediate_size") or model.size_of("n_inner") or 4 * width
    experts = 1
    if model.has_experts:
        experts = model.size_of("num_experts_per_tok") or 1
        inner = model.size_of("moe_intermediate_size") or inner
    gated = model.has_experts or any("gate" in name for name in model.adaptable_layers)
    matrices = GATED_MATRICES if gated else PLAIN_MATRICES
    layer = 2 * width * head * (heads + key_heads) + matrices * width * inner * experts
    return vocab_size * width / layer


def stages_of_rank(place: int, pipeline: int, chunks: int) -> tuple[int, ...]:
    """Return the stages that a rank holds, in order: every ``pipeline``-th from its own place.

    Args:
        place: Of the rank on the pipeline's axis.
        pipeline: Ranks along it.
        chunks: Stages of a rank.
    """
    return tuple(range(place, pipeline * chunks, pipeline))


def require_schedule(
    schedule: PipelineSchedule, pipeline: int, chunks: int, microbatches: int
) -> None:
    """Refuse a schedule that cannot run so many microbatches, or hold so many stages a rank.

    Args:
        schedule: By name.
        pipeline: Ranks of a pipeline.
        chunks: Stages of a rank.
        microbatches: Of each rank in a step; see ``microbatches_per_rank``.

    Raises:
        RecipeError: Names the setting, and the numbers that fit.
    """
    if chunks > 1 and schedule not in LOOPED:
        raise RecipeError(
            "parallelism.pipeline_chunks",
            f"{chunks} stages a rank under pipeline_schedule {schedule}",
            f"1, or one of the schedules {', '.join(LOOPED)}",
            "Set parallelism.pipeline_schedule to interleaved_1f1b, or pipeline_chunks to 1.",
        )
    if schedule == "interleaved_1f1b" and chunks == 1:
        raise RecipeError(
            "parallelism.pipeline_chunks",
            "1 stage a rank under pipeline_schedule interleaved_1f1b",
            "at least 2 stages a rank, which are what is interleaved",
            "Set parallelism.pipeline_chunks to 2, or pipeline_schedule to 1f1b.",
        )
    rounds = max(1, microbatches // pipeline)
    if schedule not in LOOPED or microbatches % rounds == 0:
        return
    below = microbatches - microbatches % pipeline
    raise RecipeError(
        "training.micro_batch_size",
        f"{microbatches} microbatches a rank in a step under pipeline_schedule {schedule}",
        f"a multiple of the {pipeline} ranks of a pipeline, such as {below} or {below + pipeline}",
        "Choose training.micro_batch_size and global_batch_size so, or set "
        "parallelism.pipeline_schedule to 1f1b.",
    )
