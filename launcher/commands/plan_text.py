"""What ``distrain plan`` shows: the processes of each stage, what they train, what they keep."""

from dataclasses import asdict
from typing import Any

from distrain.config.reading.load import LoadedRecipe
from distrain.config.recipe import FinetuneStage, Recipe, TrainStage
from distrain.runs.phases import PHASES, SHARED_PHASES
from launcher.commands.holdings_text import holdings_json, holdings_text, placement_notes
from launcher.estimate import (
    adapted_layers,
    checkpoint_bytes,
    logits_bytes,
    stage_attention,
    stage_memory,
    stage_model,
    stage_parameters,
    stage_tokens,
    stage_vocab_size,
)
from launcher.memory import MethodMemory, method_of
from launcher.plan import Plan, StagePlan
from launcher.run_files import shown_path
from launcher.text import WIDTH, plural, short_bytes, short_count, table, wrapped
from launcher.watch.progress import total_steps

UNKNOWN = "unknown"
PROCESSES_HEADER = ("STAGE", "KIND", "NEEDS", "PROCESSES", "LAYOUT", "GLOBAL BATCH")
"""Layout: copies x shards. Global batch: sequences of a microbatch x ranks x microbatches."""
MEMORY_HEADER = (
    "STAGE",
    "METHOD",
    "TRAINED",
    "WEIGHTS",
    "STATE",
    "ACTIVATIONS",
    "GATHERED",
    "PEAK",
)
"""State: gradients, and what the optimizer keeps; gathered: by FSDP2, of several ranks' parts."""
TRAINING_HEADER = ("STAGE", "STEPS", "TOKENS", "PARAMETERS", "CHECKPOINTS")


def plan_text(loaded: LoadedRecipe, plan: Plan) -> str:
    """Show what would run: stages, processes, sizes, and what the command line changed."""
    launch = loaded.recipe.launch
    recipe = loaded.recipe
    training = [
        _training_row(recipe, stage, section)
        for stage in plan.stages
        if isinstance(section := recipe.stages[stage.name], TrainStage)
    ]
    lines = [
        f"run     {plan.run.root.name}, backend {launch.backend}",
        f"folder  {shown_path(plan.run.root)}",
        "",
        table(PROCESSES_HEADER, [_processes_row(recipe, s) for s in plan.stages], WIDTH),
        "",
        *([table(TRAINING_HEADER, training, WIDTH), ""] if training else []),
        *holdings_text(recipe, plan),
        *_memory_table(recipe, plan),
        "In every stage: processes = ranks = product of the degrees of its layout.",
        *(wrapped(line) for stage in plan.stages if (line := _chunks(recipe, stage))),
        *(wrapped(line) for stage in plan.stages if (line := _attention(recipe, stage))),
        *(wrapped(line) for stage in plan.stages if (line := _adapters(recipe, stage))),
        *(wrapped(line) for stage in plan.stages if (line := _compiled(recipe, stage))),
        *(wrapped(_chain(stage)) for stage in plan.stages if stage.tasks > 1),
    ]
    changed = [key for key, origin in loaded.origins.items() if origin == "override"]
    if changed:
        lines.append(wrapped("Set on the command line: " + ", ".join(changed)))
    notes = (*loaded.notes, *placement_notes(plan))
    lines += [wrapped(f"note: {note}") for note in notes]
    return "\n".join(lines)


def plan_json(loaded: LoadedRecipe, plan: Plan) -> dict[str, Any]:
    """Return the same for JSON."""
    return {
        "backend": loaded.recipe.launch.backend,
        "stages": [_stage_json(loaded.recipe, plan, stage) for stage in plan.stages],
    }


def _memory_table(recipe: Recipe, plan: Plan) -> list[str]:
    """Show what each method would take of a process, the stage's own one marked."""
    rows = []
    for stage in plan.stages:
        found, section = _memory(recipe, stage), recipe.stages[stage.name]
        for method, memory in (found or {}).items():
            assert isinstance(section, TrainStage), "what takes memory trains"
            parts = (
                *(memory.weights, memory.state),
                *(memory.activations, memory.gathered, memory.peak),
            )
            mark = "*" if method == method_of(section) else ""
            sizes = map(short_bytes, parts)
            rows.append((stage.name, method + mark, short_count(memory.trained), *sizes))
    if not rows:
        return []
    note = (
        "Memory is that of the rank which takes most, estimated (under DDP and DeepSpeed of one "
        "that holds all); * is the recipe's method. The libraries, and what an allocator keeps of "
        "freed memory, come on top."
    )
    return [table(MEMORY_HEADER, rows, WIDTH), wrapped(note), ""]


def _memory(recipe: Recipe, stage: StagePlan) -> dict[str, MethodMemory] | None:
    if stage.accumulation is None:
        return None
    tokens = _microbatch_tokens(recipe, stage)
    return stage_memory(recipe, stage.name, tokens, stage.layout, stage.accumulation)


def _chunks(recipe: Recipe, stage: StagePlan) -> str | None:
    """Say that, and how, the loss is taken in chunks; nothing of stages that make whole logits."""
    found = _chunk_tokens(recipe, stage)
    if not found:
        return None
    size = logits_bytes(recipe, stage.name, _microbatch_tokens(recipe, stage))
    positions = " or, on a GPU, ".join(f"{tokens:,}" for tokens in dict.fromkeys(found))
    logits = "the logits" if size is None else f"logits that would take {short_bytes(size)}"
    return f"{stage.name} takes the loss of {logits} in chunks of {positions} positions."


def _attention(recipe: Recipe, stage: StagePlan) -> str | None:
    """Say by which kernels a stage attends; nothing of stages that train nothing."""
    found = stage_attention(recipe, stage.name)
    if not found:
        return None
    words = {"cpu": "on a CPU", "cuda": "on a GPU"}
    said = [
        f"{kernels['divided_rows']} {words[device]} (rows of one document: {kernels['whole_rows']})"
        for device, kernels in found.items()
    ]
    return f"{stage.name} attends by {', '.join(said)}."


def _adapters(recipe: Recipe, stage: StagePlan) -> str | None:
    """Say what adapters are for, and what they do not reach; nothing of other stages."""
    layers, section = adapted_layers(recipe, stage.name), recipe.stages[stage.name]
    if layers is None:
        return None
    assert isinstance(section, FinetuneStage)
    assert section.lora is not None, "it has adapters"
    model = stage_model(recipe, stage.name)
    beside = ", ".join(layers) or "every linear layer but the head"
    rest = "the rest, its experts included," if model and model.has_experts else "the rest"
    return (
        f"{stage.name} trains adapters of rank {section.lora.r} beside {beside}; {rest} is frozen."
    )


def _compiled(recipe: Recipe, stage: StagePlan) -> str | None:
    """Say that blocks are compiled; nothing of stages where they are not."""
    if not _compiles(recipe, stage):
        return None
    return f"{stage.name} compiles each block, attention apart, before its first step."


def _compiles(recipe: Recipe, stage: StagePlan) -> bool | None:
    section = recipe.stages[stage.name]
    return section.training.compiles_blocks if isinstance(section, TrainStage) else None


def _chunk_tokens(recipe: Recipe, stage: StagePlan) -> list[int]:
    """Return the positions of a chunk on each kind of device that the stage may get."""
    section, vocab_size = recipe.stages[stage.name], stage_vocab_size(recipe, stage.name)
    if not isinstance(section, TrainStage):
        return []
    training = section.training
    if isinstance(training.loss.chunk_tokens, int):
        return [training.loss.chunk_tokens]
    if vocab_size is None:
        return []
    kinds = {"cpu": (False,), "cuda": (True,), "auto": (False, True)}[training.device]
    tokens = _microbatch_tokens(recipe, stage)
    found = [
        training.loss.tokens_of_chunk(tokens, vocab_size, training.logit_bytes, on_gpu=on_gpu)
        for on_gpu in kinds
    ]
    return [chunk for chunk in found if chunk is not None]


def _microbatch_tokens(recipe: Recipe, stage: StagePlan) -> int:
    section = recipe.stages[stage.name]
    assert isinstance(section, TrainStage)
    assert stage.accumulation is not None, "of stages that train"
    rows = section.training.global_batch_size // (stage.dp_size * stage.accumulation)
    return rows * section.tokens_per_sample


def _chain(stage: StagePlan) -> str:
    shared = f" ({stage.tasks} tasks)"
    words = [phase + (shared if phase in SHARED_PHASES else "") for phase in PHASES]
    words.append("the rest")
    return f"{stage.name} is {len(words)} jobs, one after the other: {', '.join(words)}."


def _processes_row(recipe: Recipe, stage: StagePlan) -> tuple[str, ...]:
    return (
        stage.name,
        stage.kind,
        ", ".join(stage.needs) or "-",
        _processes(stage),
        _layout(stage),
        batch_text(recipe, stage),
    )


def _training_row(recipe: Recipe, stage: StagePlan, section: TrainStage) -> tuple[str, ...]:
    steps = total_steps(recipe, stage.name)
    tokens = stage_tokens(recipe, stage.name)
    parameters = stage_parameters(recipe, stage.name)
    size = checkpoint_bytes(recipe, stage.name)
    kept = section.checkpoint.keep_last
    return (
        stage.name,
        UNKNOWN if steps is None else f"{steps:,}",
        UNKNOWN if tokens is None else short_count(tokens),
        UNKNOWN if parameters is None else short_count(parameters),
        UNKNOWN if size is None else f"{kept} x {short_bytes(size)}",
    )


def _stage_json(recipe: Recipe, plan: Plan, stage: StagePlan) -> dict[str, Any]:
    layout = stage.layout
    return {
        "stage": stage.name,
        "kind": stage.kind,
        "needs": list(stage.needs),
        "nodes": stage.nodes,
        "spare_nodes": stage.spare_nodes,
        "processes_per_node": stage.processes_per_node,
        "world_size": stage.world_size,
        "gpus_per_node": stage.gpus_per_node,
        "tasks": stage.tasks,
        "strategy": layout.strategy if layout else None,
        "dp_replicate": layout.dp_replicate if layout else None,
        "dp_shard": layout.dp_shard if layout else None,
        "accumulation": stage.accumulation,
        "holdings": holdings_json(recipe, stage),
        "loss_chunk_tokens": _chunk_tokens(recipe, stage) or None,
        "steps": total_steps(recipe, stage.name),
        "tokens": stage_tokens(recipe, stage.name),
        "parameters": stage_parameters(recipe, stage.name),
        "checkpoint_bytes": checkpoint_bytes(recipe, stage.name),
        "attention": stage_attention(recipe, stage.name),
        "adapted_layers": adapted_layers(recipe, stage.name),
        "memory": _memory_json(recipe, stage),
        "compile": _compiles(recipe, stage),
    }


def _memory_json(recipe: Recipe, stage: StagePlan) -> dict[str, dict[str, int]] | None:
    found = _memory(recipe, stage)
    if found is None:
        return None
    return {name: {**asdict(memory), "peak": memory.peak} for name, memory in found.items()}


def _processes(stage: StagePlan) -> str:
    if stage.tasks > 1:
        return f"{stage.tasks} tasks"
    spares = f", {plural(stage.spare_nodes, 'spare')}" if stage.spare_nodes else ""
    if stage.nodes == 1:
        return f"{stage.world_size}{spares}"
    return f"{stage.nodes} x {stage.processes_per_node} = {stage.world_size}{spares}"


def _layout(stage: StagePlan) -> str:
    layout = stage.layout
    if layout is None:
        return "-"
    if layout.strategy == "single":
        return "single"
    name = f"zero-{layout.zero_stage}" if layout.strategy == "deepspeed" else layout.strategy
    further = (axis for axis in (*layout.outer, *layout.inner) if axis.size > 1)
    words = [f"{name} {layout.dp_replicate} x {layout.dp_shard}"]
    return ", ".join([*words, *(f"{axis.name} {axis.size}" for axis in further)])


def batch_text(recipe: Recipe, stage: StagePlan) -> str:
    """Say how a global batch is cut; a dash for stages that have none."""
    section = recipe.stages[stage.name]
    if not isinstance(section, TrainStage) or stage.accumulation is None:
        return "-"
    batch = section.training.global_batch_size
    micro = batch // (stage.dp_size * stage.accumulation)
    return f"{batch} = {micro} x {stage.dp_size} x {stage.accumulation}"
