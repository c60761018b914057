"""The texts of commands: what is valid, queued, running or stopped, and what comes next."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distrain.config.reading.load import LoadedRecipe
from distrain.runs.folder import RunFolder
from distrain.runs.records import read_json
from launcher.commands.plan_text import batch_text
from launcher.plan import Plan
from launcher.resources import ShippedRecipe
from launcher.run_files import name_of, shown_path
from launcher.text import plural, table

if TYPE_CHECKING:
    from launcher.backends.protocol import SubmittedJob
    from launcher.commands.actions import Stopped


def recipe_list(recipes: "list[ShippedRecipe]") -> str:
    """List shipped recipes with their first sentence."""
    return table(("RECIPE", "WHAT IT DOES"), [(r.name, r.summary) for r in recipes])


def validation_summary(loaded: LoadedRecipe, plan: Plan, notes: Sequence[str]) -> str:
    """Say in one line that a recipe is good, and how its batch is cut."""
    parts = [plural(len(plan.stages), "stage")]
    parts += [
        f"{stage.name}: global batch {batch_text(loaded.recipe, stage)}"
        for stage in plan.stages
        if stage.layout is not None
    ]
    count = f" {plural(len(notes), 'note')}." if notes else ""
    return f"ok  {', '.join(parts)}.{count}"


def next_steps(run: RunFolder, done: bool) -> tuple[str, ...]:
    """Name the commands that make sense after a run ended, without the name of distrain itself."""
    name = name_of(run)
    if done:
        return (f"report {name}", f"status {name}", f"generate {name} {prompt_of(run)}")
    return (f"resume {name}", f"status {name}", f"logs {name}")


def prompt_of(run: RunFolder) -> str:
    """Return a prompt from the run's held-out text, quoted; a placeholder if it keeps none.

    Of a run that was tuned on chats alone, it is a user's turn.
    """
    paths = sorted(run.root.glob(f"*/{run.stage('').result.name}"))
    results = [read_json(path) or {} for path in paths]
    found = [result["prompt"] for result in results if result.get("prompt")]
    is_chat = not found and any("pairs" in result for result in results)
    return f'"{(found or ["PROMPT"])[0]}"' + (" --chat" if is_chat else "")


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


def queued_json(jobs: "list[SubmittedJob]") -> list[dict[str, Any]]:
    """Return what was queued for JSON."""
    return [
        {
            "name": job.stage,
            "job": job.job,
            "after": list(job.after),
            "is_new": job.is_new,
            "tasks": job.tasks,
            "script": str(job.script),
        }
        for job in jobs
    ]


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
