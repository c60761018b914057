"""What one rank holds of a decoder of ours, and how much of a microbatch it keeps. Pure.

Tensors cut matrices and tables, stages of a pipeline leave a rank some layers, and FSDP2 cuts what
is left over all ranks that compute with the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from distrain.config.layout import Layout
from distrain.config.models import LlamaConfig
from distrain.config.models.tensor_plan import plan_of, style_of
from distrain.config.pipeline import (
    LOOPED,
    PipelineSchedule,
    layers_of_stages,
    stages_of_rank,
)
from distrain.config.recipe import TrainStage

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
TABLES = (EMBEDDING, HEAD)
"""Of a decoder of ours, that may be one."""
LAYER = "model.layers."
HELD_WHOLE = (None, "replicate", "replicated_with_grad_allreduce")
"""Styles of what every rank along ``tensor`` has."""
SHARDING_AXES = ("shard", "context", "expert")
"""Over whose ranks FSDP2 cuts what the other axes leave."""


@dataclass(frozen=True)
class RankPart:
    """A rank's part of a model and of its work.

    Args:
        stages: Layers of each of its stages of the pipeline.
        is_first: Whether one of them embeds.
        is_last: Whether one of them has the output layer.
        microbatches: Of a step.
        passes: Forward passes of a stage whose backward pass is still to come, at most.
        is_piped: Whether there are other stages.
        plan: How tensors are cut; see ``plan_of``.
        tensor: Ranks over which they are.
        context: Ranks that each keep other columns of a row.
        shards: Ranks over which FSDP2 cuts the parameters.
        cuts_stream: Whether a rank along ``tensor`` keeps its own positions only between layers.
    """

    stages: tuple[range, ...]
    is_first: bool = True
    is_last: bool = True
    microbatches: int = 1
    passes: int = 1
    is_piped: bool = False
    plan: Mapping[str, str] | None = None
    tensor: int = 1
    context: int = 1
    shards: int = 1
    cuts_stream: bool = False

    def shapes(self, model: LlamaConfig, vocab_size: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of what is left to the rank, before FSDP2 cuts it."""
        return {
            name: self._cut(name, shape)
            for name, shape in model.tensor_shapes(vocab_size).items()
            if self._holds(name, is_tied=model.tie_word_embeddings)
        }

    def _holds(self, name: str, *, is_tied: bool) -> bool:
        if name.startswith(LAYER):
            number = int(name.removeprefix(LAYER).partition(".")[0])
            return any(number in stage for stage in self.stages)
        if name == EMBEDDING:
            return self.is_first or (self.is_last and is_tied)
        return self.is_last

    def _cut(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.tensor == 1:
            return shape
        style = style_of(self.plan or {}, name.removesuffix(".weight"))
        if name in TABLES:  # by tokens, whatever the plan says
            style = "embedding_rowwise"
        if style in HELD_WHOLE:
            return shape
        # A linear layer has its outputs first, and ``rowwise`` cuts its inputs.
        dim = 1 if style.startswith("rowwise") else 0
        return (*shape[:dim], -(-shape[dim] // self.tensor), *shape[dim + 1 :])


def parts_of(
    layout: Layout | None,
    stage: TrainStage,
    model: LlamaConfig,
    vocab_size: int,
    microbatches: int,
) -> list[RankPart]:
    """Return the part of a rank at each place of the pipeline; one where there is none.

    Args:
        layout: ``None``, or of another strategy than ``fsdp``: all of the model.
        stage: Its plan, its schedule and its recomputation.
        model: Sizes.
        vocab_size: Rows of the embedding.
        microbatches: Of each rank in a step.
    """
    if layout is None or layout.strategy != "fsdp":
        return [RankPart((range(model.num_hidden_layers),))]
    parallelism = stage.parallelism
    pipeline, chunks = layout.size("pipeline"), parallelism.pipeline_chunks
    shards = 1
    for axis in SHARDING_AXES:
        shards *= layout.size(axis)
    cuts = layers_of_stages(model, vocab_size, pipeline * chunks)
    tensor = layout.size("tensor")
    # As the runtime does: stages with recomputed blocks keep the stream whole.
    cuts_stream = parallelism.sequence_parallel is not False and (
        pipeline == 1 or stage.training.recompute_every is None
    )
    return [
        RankPart(
            stages=tuple(cuts[number] for number in stages_of_rank(place, pipeline, chunks)),
            is_first=place == 0,
            is_last=place == pipeline - 1,
            microbatches=microbatches,
            passes=passes_in_flight(
                parallelism.pipeline_schedule, place, pipeline, chunks, microbatches
            ),
            is_piped=pipeline > 1,
            plan=plan_of(model, parallelism.tp_plan),
            tensor=tensor,
            context=layout.size("context"),
            shards=shards,
            cuts_stream=tensor > 1 and cuts_stream,
        )
        for place in range(pipeline)
    ]


def passes_in_flight(
    schedule: PipelineSchedule, place: int, pipeline: int, chunks: int, microbatches: int
) -> int:
    """Count the forward passes of a rank's stages that wait for their backward pass, at most.

    ``gpipe`` runs all before the first goes back. Under ``1f1b`` a stage runs as many as there are
    stages from it on (arXiv 2104.04473, section 2.2.1), with chunks a round of each but the last
    one, and twice the way to the last rank (section 2.2.2).

    Args:
        schedule: By name.
        place: Of the rank on the axis.
        pipeline: Ranks along it; 1: a microbatch goes back before the next one begins.
        chunks: Stages of a rank.
        microbatches: Of a step.
    """
    if pipeline == 1:
        return 1
    if schedule in LOOPED:
        a_round = microbatches // max(1, microbatches // pipeline)
        ahead = (chunks - 1) * a_round + 2 * (pipeline - 1 - place)
        return min(ahead + 1, chunks * microbatches)
    if schedule == "gpipe" or microbatches < pipeline:
        return microbatches
    return pipeline - place
