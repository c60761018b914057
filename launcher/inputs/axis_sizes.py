"""Whether sizes of a model divide over the ranks of an axis: heads, columns, experts, layers.

Those that a family does not state, and its table does not know, are left to the runtime.
"""

from collections.abc import Iterable, Iterator

from distrain.config.axes import fitting_degrees
from distrain.config.layout import AXIS_SETTINGS
from distrain.config.models.tensor_plan import cuts_heads, plan_of
from distrain.config.pipeline import layers_of_stages
from distrain.config.reading.stage_parts import Finding
from distrain.errors import RecipeError
from launcher.inputs.cut_stage import CutStage

ANY_VOCABULARY = 1
"""For a stage whose tokenizer is not there yet: only the costs of stages depend on it."""
HEADS, KEY_HEADS = "attention heads", "heads of keys and values"
COLUMNS, COLUMNS_OF_EXPERT = "columns of a feed-forward layer", "columns of an expert"
TENSOR_SIZES = {
    ("num_attention_heads",): HEADS,
    ("num_key_value_heads",): KEY_HEADS,
    ("intermediate_size", "n_inner"): COLUMNS,
    ("moe_intermediate_size",): COLUMNS_OF_EXPERT,
}
"""Common names of sizes, and what is counted, in words."""


def check_heads_and_widths(cut: CutStage) -> Iterator[Finding]:
    """Tensor parallel: whole heads to each rank, and as many columns of each feed-forward layer."""
    degree = cut.degrees.get("tensor")
    if degree is None or cut.model is None:
        return
    sizes = {
        words: size
        for names, words in TENSOR_SIZES.items()
        if (size := next(filter(None, map(cut.size, names)), None)) is not None
    }
    if not cuts_heads(plan_of(cut.model, cut.stage.parallelism.tp_plan)):
        sizes.pop(HEADS, None)
        sizes.pop(KEY_HEADS, None)
    if "expert" in cut.degrees and cut.model.stacks_experts:
        sizes.pop(_width_of_experts(cut), None)
    yield from _undivided(cut, "tensor", sizes)


def _width_of_experts(cut: CutStage) -> str:
    """Say which width is of nothing but experts, which lie whole on ranks of the expert axis.

    A family without a width of its own for them (mixtral) has no other feed-forward layers. What
    every token passes besides is as wide in deepseek's kind, and is cut.
    """
    if cut.size("moe_intermediate_size") is None:
        return COLUMNS
    return "" if cut.size("n_shared_experts") else COLUMNS_OF_EXPERT


def _undivided(cut: CutStage, axis: str, sizes: dict[str, int]) -> Iterator[Finding]:
    """Say which sizes an axis does not divide, all at once, with the degrees that fit all."""
    degree, setting = cut.degrees[axis], f"parallelism.{AXIS_SETTINGS[axis]}"
    wrong = [f"{size:,} {words}" for words, size in sizes.items() if size % degree]
    if wrong:
        yield cut.finding(
            setting,
            f"{degree}, which does not divide {' nor '.join(wrong)} of the model",
            f"a divisor of {_listed(dict.fromkeys(sizes.values()))}",
            f"set it to {fitting_degrees(degree, *sizes.values())}",
        )


def _listed(sizes: Iterable[int]) -> str:
    *others, last = (f"{size:,}" for size in sizes)
    return f"{', '.join(others)} and {last}" if others else last


def check_experts(cut: CutStage) -> Iterator[Finding]:
    """Expert parallel: as many experts to each rank, of a layer that stacks them."""
    degree, model = cut.degrees.get("expert"), cut.model
    if degree is None or model is None:
        return
    setting = "parallelism.expert_parallel"
    if not model.stacks_experts:
        what = "no layer with experts" if model.num_experts == 0 else "experts in no stacked weight"
        yield cut.finding(
            setting,
            f"{degree} for {model.family_name}, which has {what}",
            "1, or a mixture of experts such as mixtral or qwen3_moe",
            "set it to 1",
        )
    elif model.num_experts:
        yield from _undivided(cut, "expert", {"experts of a layer": model.num_experts})


def check_layers(cut: CutStage) -> Iterator[Finding]:
    """Pipeline parallel: at least a layer to each stage."""
    degree, model = cut.degrees.get("pipeline"), cut.model
    if degree is None or model is None:
        return
    stages = degree * cut.stage.parallelism.pipeline_chunks
    try:
        layers_of_stages(model, cut.vocab_size or ANY_VOCABULARY, stages)
    except RecipeError as error:
        yield Finding(cut.name, ("parallelism", "pipeline_parallel"), str(error))
    if model.asks_for_balancing:
        yield cut.finding(
            "model.config.output_router_logits",
            f"true with pipeline_parallel {degree}: the balancing loss is of all layers at once",
            "false",
            "leave it out, or set parallelism.pipeline_parallel to 1",
        )


def check_columns(cut: CutStage) -> Iterator[Finding]:
    """Sequence parallel on request: a rank keeps as many positions as any other."""
    parallelism, length = cut.stage.parallelism, cut.stage.training.sequence_length
    degree = cut.degrees.get("tensor")
    if degree is None or parallelism.sequence_parallel is not True or length % degree == 0:
        return
    below, above = length - length % degree, length + degree - length % degree
    fitting = f"{below} or {above}" if below else str(above)
    yield cut.finding(
        "training.sequence_length",
        f"{length} with sequence_parallel over {degree} ranks",
        f"a multiple of {degree}",
        f"set it to {fitting}, or parallelism.sequence_parallel to false",
    )
