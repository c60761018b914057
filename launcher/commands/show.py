"""The texts of the commands that only read: recipes, validate, plan, and the next steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distrain.config.reading.load import LoadedRecipe
from distrain.config.recipe import Recipe, TrainStage
from distrain.runs.folder import RunFolder
from distrain.runs.records import read_json
from launcher.backends.slurm.jobs import jobs_of
from launcher.estimate import checkpoint_bytes, stage_parameters, stage_tokens
from launcher.plan import Plan, StagePlan
from launcher.resources import ShippedRecipe
from launcher.text import plural, short_bytes, short_count, table
from launcher.watch.progress import total_steps

if TYPE_CHECKING:
    from launcher.backends.slurm.queue import SubmittedJob
    from launcher.commands.actions import Stopped

UNKNOWN = "unknown"
MAX_NEXT = 3
PLAN_HEADER = (
    *("STAGE", "KIND", "NEEDS", "PROCESSES", "LAYOUT", "GLOBAL BATCH"),
    *("STEPS", "TOKENS", "PARAMETERS", "CHECKPOINTS"),
)
"""Layout: copies x shards. Global batch: sequences of a microbatch x ranks x microbatches."""


def recipe_list(recipes: "list[ShippedRecipe]") -> str:
    """List shipped recipes with their first sentence."""
    return table(("RECIPE", "WHAT IT DOES"), [(r.name, r.summary) for r in recipes])


def validation_summary(loaded: LoadedRecipe, plan: Plan, notes: Sequence[str]) -> str:
    """Say in one line that a recipe is good, and how its batch is cut."""
    parts = [plural(len(plan.stages), "stage")]
    parts += [
        f"{stage.name}: global batch {_batch(loaded.recipe, stage)}"
        for stage in plan.stages
        if stage.layout is not None
    ]
    count = f" {plural(len(notes), 'note')}." if notes else ""
    return f"ok  {', '.join(parts)}.{count}"


def plan_text(loaded: LoadedRecipe, plan: Plan) -> str:
    """Show what would run: stages, processes, sizes, and what the command line changed."""
    launch = loaded.recipe.launch
    rows = [_plan_row(loaded.recipe, stage) for stage in plan.stages]
    lines = [
        f"run     {plan.run.root.name}, backend {launch.backend}",
        f"folder  {shown_path(plan.run.root)}",
        "",
        table(PLAN_HEADER, rows),
        "",
        "In every stage: processes = ranks = product of the degrees of its layout.",
        *(_chain(stage) for stage in plan.stages if stage.tasks > 1),
    ]
    changed = [key for key, origin in loaded.origins.items() if origin == "override"]
    if changed:
        lines.append("Set on the command line: " + ", ".join(changed))
    lines += [f"note: {note}" for note in loaded.notes]
    return "\n".join(lines)


def plan_json(loaded: LoadedRecipe, plan: Plan) -> dict[str, Any]:
    """Form of ``plan --json``."""
    return {
        "run": str(plan.run.root),
        "backend": loaded.recipe.launch.backend,
        "stages": [_stage_json(loaded.recipe, plan, stage) for stage in plan.stages],
        "notes": list(loaded.notes),
    }


def next_steps(run: RunFolder, done: bool) -> str:
    """Name the commands that make sense after a run ended."""
    name = run.root.name
    if done:
        commands = [f"report {name}", f"status {name}", f"generate {name} {prompt_of(run)}"]
    else:
        commands = [f"resume {name}", f"status {name}", f"logs {name}"]
    return next_line(*commands)


def prompt_of(run: RunFolder) -> str:
    """Return a prompt from the run's held-out text, quoted; a placeholder if it keeps none."""
    results = (read_json(path) for path in sorted(run.root.glob(f"*/{run.stage('').result.name}")))
    found = (result["prompt"] for result in results if result and result.get("prompt"))
    return f'"{next(found, "PROMPT")}"'


def next_line(*commands: str) -> str:
    """Write at most three commands to go on with."""
    return "next    " + " | ".join(f"distrain {command}" for command in commands[:MAX_NEXT])


def queued_text(run: RunFolder, jobs: "list[SubmittedJob]") -> str:
    """Say what was queued."""
    rows = [
        (
            "queued" if job.is_new else "in the queue",
            job.stage,
            f"job {job.job}" + (f", {job.tasks} tasks" if job.tasks > 1 else ""),
            f"after {', '.join(job.after)}" if job.after else "",
        )
        for job in jobs
    ]
    lines = [table(("", "", "", ""), rows).lstrip("\n")] if rows else ["every stage is done"]
    return "\n".join([*lines, f"run {run.root.name} in {shown_path(run.root)}"])


def running_text(run: RunFolder, running: dict[str, int]) -> str:
    """Say what runs now."""
    if not running:
        return f"nothing of run {run.root.name} is running"
    stages = ", ".join(f"{name} (attempt {attempt})" for name, attempt in running.items())
    return f"running in {run.root.name}: {stages}"


def stopped_text(run: RunFolder, stopped: "Stopped") -> str:
    """Say what came of a wish to stop."""
    if not stopped.asked:
        return running_text(run, {})
    asked = f"asked run {run.root.name} to save and stop ({shown_path(run.stop)})."
    if not stopped.ended:
        return f"{asked} Still running after {stopped.seconds:.0f} s; it stops when it can."
    steps = ", ".join(f"{name} at step {step:,}" for name, step in stopped.steps.items())
    return f"{asked} Ended after {stopped.seconds:.0f} s{': ' + steps if steps else ''}."


def shown_path(path: Path) -> str:
    """Write a path relative to the working folder if it lies below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _chain(stage: StagePlan) -> str:
    words = [
        f"{job.phase or 'the rest'}" + (f" ({job.tasks} tasks)" if job.tasks > 1 else "")
        for job in jobs_of([stage])
    ]
    return f"{stage.name} is {len(words)} jobs, one after the other: {', '.join(words)}."


def _plan_row(recipe: Recipe, stage: StagePlan) -> tuple[str, ...]:
    head = (stage.name, stage.kind, ",".join(stage.needs) or "-", _processes(stage))
    section = recipe.stages[stage.name]
    if not isinstance(section, TrainStage):
        return (*head, *("-" for _ in range(6)))
    steps = total_steps(recipe, stage.name)
    tokens = stage_tokens(recipe, stage.name)
    parameters = stage_parameters(recipe, stage.name)
    size = checkpoint_bytes(recipe, stage.name)
    kept = section.checkpoint.keep_last
    return (
        *head,
        _layout(stage),
        _batch(recipe, stage),
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
        "processes_per_node": stage.processes_per_node,
        "world_size": stage.world_size,
        "gpus_per_node": stage.gpus_per_node,
        "tasks": stage.tasks,
        "strategy": layout.strategy if layout else None,
        "dp_replicate": layout.dp_replicate if layout else None,
        "dp_shard": layout.dp_shard if layout else None,
        "accumulation": stage.accumulation,
        "steps": total_steps(recipe, stage.name),
        "tokens": stage_tokens(recipe, stage.name),
        "parameters": stage_parameters(recipe, stage.name),
        "checkpoint_bytes": checkpoint_bytes(recipe, stage.name),
    }


def _processes(stage: StagePlan) -> str:
    if stage.tasks > 1:
        return f"{stage.tasks} tasks"
    if stage.nodes == 1:
        return str(stage.world_size)
    return f"{stage.nodes} x {stage.processes_per_node} = {stage.world_size}"


def _layout(stage: StagePlan) -> str:
    layout = stage.layout
    if layout is None:
        return "-"
    if layout.strategy == "single":
        return "single"
    name = f"zero-{layout.zero_stage}" if layout.strategy == "deepspeed" else layout.strategy
    return f"{name} {layout.dp_replicate} x {layout.dp_shard}"


def _batch(recipe: Recipe, stage: StagePlan) -> str:
    section = recipe.stages[stage.name]
    if not isinstance(section, TrainStage) or stage.accumulation is None:
        return "-"
    batch = section.training.global_batch_size
    micro = batch // (stage.world_size * stage.accumulation)
    return f"{batch} = {micro} x {stage.world_size} x {stage.accumulation}"
