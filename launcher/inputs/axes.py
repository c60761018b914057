"""Whether the model and the settings of a stage can be laid over the axes that its recipe asks for.

Of sizes alone: those of the recipe, or of the ``config.json`` of the model that it starts from.
What a family does not state, and its table does not know, is left to the runtime.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations

from distrain.config.axes import REFUSED_PAIRS, degrees_of
from distrain.config.layout import AXIS_SETTINGS
from distrain.config.models import ModelConfig, TransformersConfig
from distrain.config.models.transformers.section import is_rate
from distrain.config.optimizers import elementwise_optimizers
from distrain.config.reading.stage_parts import Finding
from distrain.config.recipe import FinetuneStage, Recipe, TrainStage
from distrain.config.tasks import CAUSAL_LM
from launcher.estimate import stage_model, stage_vocab_size
from launcher.inputs.axis_plan import check_plan
from launcher.inputs.axis_sizes import (
    check_columns,
    check_experts,
    check_heads_and_widths,
    check_layers,
)
from launcher.inputs.cut_stage import CutStage

NO_DROPOUT = ("tensor", "context", "pipeline")
"""Axes whose ranks would draw other values than one process: each has a part of a row's work."""
ELEMENTWISE = ("tensor", "expert")
"""Axes that leave a rank a part of a matrix, or of a stack of them. The stages of a pipeline have
matrices whole, and FSDP2's parts are put together where an optimizer asks for it."""


SETTINGS_OF_AXES: Mapping[str, tuple[str, tuple[object, ...]]] = {
    "tp_plan": ("tensor", ({},)),
    "sequence_parallel": ("tensor", ("auto", False)),
    "pipeline_schedule": ("pipeline", ("1f1b",)),
    "pipeline_chunks": ("pipeline", (1,)),
}
"""Settings that say something of an axis, and the values that ask for nothing."""


def check_axes(recipe: Recipe) -> Iterator[Finding]:
    """Check every stage that trains with an axis besides those of data."""
    for name, stage in recipe.stages.items():
        if not isinstance(stage, TrainStage):
            continue
        degrees = degrees_of(stage.parallelism)
        yield from _idle(name, stage, degrees)
        if degrees:
            model, rows = stage_model(recipe, name), stage_vocab_size(recipe, name)
            cut = CutStage(name, stage, degrees, model, rows)
            for check in AXIS_CHECKS:
                yield from check(cut)


def _idle(name: str, stage: TrainStage, degrees: Mapping[str, int]) -> Iterator[Finding]:
    """Note settings whose axis is not there."""
    for setting, (axis, rest) in SETTINGS_OF_AXES.items():
        if axis not in degrees and getattr(stage.parallelism, setting) not in rest:
            message = f"parallelism.{setting} has no effect with {AXIS_SETTINGS[axis]} 1"
            yield Finding(name, ("parallelism", setting), message, is_note=True)


def _strategy(cut: CutStage) -> Iterator[Finding]:
    """Only FSDP2 is combined with axes, for its parameters are DTensors that know of others."""
    strategy = cut.stage.parallelism.strategy
    if strategy in ("auto", "fsdp"):
        return
    axis, degree = next(iter(cut.degrees.items()))
    setting = f"parallelism.{AXIS_SETTINGS[axis]}"
    yield cut.finding(
        setting,
        f"{degree} with strategy {strategy}",
        "1, or strategy fsdp",
        f"set parallelism.strategy to fsdp, or {setting} to 1",
    )


def _pairs(cut: CutStage) -> Iterator[Finding]:
    for first, second in combinations(cut.degrees, 2):
        reason = REFUSED_PAIRS.get(frozenset({first, second}))
        if reason is not None:
            one, other = (f"parallelism.{AXIS_SETTINGS[axis]}" for axis in (first, second))
            yield cut.finding(
                one,
                f"{cut.degrees[first]} with {cut.first_of((second,))}: {reason}",
                "one of the two to be 1",
                f"set {one} or {other} to 1",
            )


def _sinks(cut: CutStage) -> Iterator[Finding]:
    if "tensor" in cut.degrees and cut.model is not None and cut.model.attention_needs.sinks:
        yield cut.finding(
            "parallelism.tensor_parallel",
            f"{cut.degrees['tensor']} for {cut.model.family_name}, whose heads have sinks",
            "1 for such a family",
            "set it to 1, and cut columns instead: parallelism.context_parallel",
        )


def _dropout(cut: CutStage) -> Iterator[Finding]:
    """Dropout is drawn by rank and microbatch, so it would depend on these axes."""
    axis = cut.first_of(NO_DROPOUT)
    if axis is None or cut.model is None:
        return
    rates = dict(_rates(cut.model))
    if isinstance(cut.stage, FinetuneStage) and cut.stage.lora is not None:
        rates["lora.dropout"] = cut.stage.lora.dropout
    for setting, rate in rates.items():
        if rate:
            yield cut.finding(
                setting,
                f"{rate} with {axis}, whose ranks would not draw what one process draws",
                "0",
                f"set {setting} to 0",
            )


def _rates(model: ModelConfig) -> Iterator[tuple[str, float]]:
    if not isinstance(model, TransformersConfig):
        yield from ((f"model.{name}", getattr(model, name)) for name in model.dropout_fields())
        return
    for key, value in model.completed().config.items():
        is_used = "drop" in key and not key.startswith(("summary_", "classifier_"))
        if is_rate(key) and is_used and isinstance(value, int | float):
            yield f"model.config.{key}", value


def _row_lengths(cut: CutStage) -> Iterator[Finding]:
    """DoRA scales each row of a matrix by its length, of which a rank may hold a part."""
    lora = cut.stage.lora if isinstance(cut.stage, FinetuneStage) else None
    if "tensor" in cut.degrees and lora is not None and lora.use_dora:
        yield cut.finding(
            "lora.use_dora",
            f"true with tensor_parallel {cut.degrees['tensor']}, which cuts rows of matrices",
            "false",
            "set it to false",
        )


def _optimizer(cut: CutStage) -> Iterator[Finding]:
    axis, optimizer = cut.first_of(ELEMENTWISE), cut.stage.optimizer
    if axis is not None and not optimizer.kept.elementwise:
        yield cut.finding(
            "optimizer.name",
            f"{optimizer.name}, which looks at whole matrices, with {axis}, which cuts them",
            "an optimizer that works element by element",
            f"set it to {' or '.join(elementwise_optimizers())}",
        )


def _zero_bubble(cut: CutStage) -> Iterator[Finding]:
    """This schedule takes the gradients of weights by themselves, in a second pass.

    A loss over parts of the vocabulary, or in chunks of positions, makes all of them in one.
    """
    parallelism, chunk_tokens = cut.stage.parallelism, cut.stage.training.loss.chunk_tokens
    if "pipeline" not in cut.degrees or parallelism.pipeline_schedule != "zero_bubble":
        return
    if "tensor" in cut.degrees:
        yield cut.finding(
            "parallelism.pipeline_schedule",
            f"zero_bubble with {cut.first_of(('tensor',))}: it takes the gradients of weights by "
            "themselves, which a loss over a cut vocabulary does not give",
            "another schedule, or tensor_parallel 1",
            "set it to 1f1b, or parallelism.tensor_parallel to 1",
        )
    if isinstance(chunk_tokens, int):
        yield cut.finding(
            "training.loss.chunk_tokens",
            f"{chunk_tokens} with pipeline_schedule zero_bubble",
            "auto or null: this schedule takes the gradients of weights by themselves",
            "set it to null, or parallelism.pipeline_schedule to 1f1b",
        )


def _task(cut: CutStage) -> Iterator[Finding]:
    axis, task = cut.first_of(("context", "pipeline")), cut.stage.training.task
    if axis is not None and task != CAUSAL_LM:
        yield cut.finding(
            "training.task",
            f"{task} with {axis}: it compares whole documents in several forward passes",
            f"{CAUSAL_LM}",
            "cut tensors instead (parallelism.tensor_parallel), or only data",
        )


def _asked_in_the_loop(cut: CutStage) -> Iterator[Finding]:
    """What lets the model write, or score single answers, needs whole forward passes."""
    axis = cut.first_of(("context", "pipeline"))
    for name in ("samples", "harness"):
        if axis is not None and getattr(cut.stage.eval, name) is not None:
            yield cut.finding(
                f"eval.{name}",
                f"a section, with {axis}",
                "none: a forward pass of this layout returns losses, and no scores of one text",
                f"remove eval.{name}, and ask the trained model with distrain evaluate",
            )


def _compiled(cut: CutStage) -> Iterator[Finding]:
    # Experts, whose tokens travel, stay outside of what is compiled.
    axis = cut.first_of(tuple(name for name in AXIS_SETTINGS if name != "expert"))
    if axis is not None and cut.stage.training.compiles_blocks:
        yield cut.finding(
            "training.compile",
            f"true with {axis}, whose collectives lie within the blocks",
            "false",
            "set it to false",
        )


AXIS_CHECKS: tuple[Callable[[CutStage], Iterator[Finding]], ...] = (
    _strategy,
    _pairs,
    check_plan,
    check_heads_and_widths,
    _sinks,
    check_columns,
    check_experts,
    check_layers,
    _zero_bubble,
    _dropout,
    _row_lengths,
    _optimizer,
    _task,
    _asked_in_the_loop,
    _compiled,
)
"""One more refusal is one more line."""
