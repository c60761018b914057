"""What the commands do that ask a model: of a run that has exported one, or any other."""

import importlib.util
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from distrain.config.harness import HARNESS_EXTRA, HARNESS_MODULE, HarnessConfig
from distrain.config.huggingface import ADAPTER_FILE, config_file, load_config
from distrain.config.pretrained.resolve import resolve_pretrained
from distrain.config.reading.load import read_resolved
from distrain.config.recipe import Recipe
from distrain.errors import ExitCode, PreflightError, RecipeError
from distrain.runs.command import command_again
from distrain.runs.folder import RunFolder
from distrain.runs.products import check_sources, read_sources
from distrain.runs.records import is_done
from launcher.commands.output import say
from launcher.inputs.harness import task_problem
from launcher.preflight import missing_modules
from launcher.run_files import committed_step, find_run, name_of


def generate(
    target: str, arguments: Sequence[str], *, capture: bool
) -> tuple[RunFolder | None, Path, ExitCode, str]:
    """Complete a prompt with the exported model of a run, or with another model.

    Returns:
        The run, if it is one; where the model lies; how the runtime's process ended; and what it
        wrote, empty unless it was to be captured: it went to this terminal.
    """
    run, folder = _model_of(target)
    return run, folder, *_run_tool("generate", str(folder), *arguments, capture=capture)


def ask_tasks(
    target: str, settings: Mapping[str, object], arguments: Sequence[str]
) -> tuple[RunFolder | None, Path, ExitCode, str]:
    """Ask the exported model of a run, or another model, tasks of ``lm_eval``.

    Args:
        target: A run, a folder or a GGUF file.
        settings: Of a ``HarnessConfig``, by key.
        arguments: Others of the runtime's command.

    Returns:
        As ``generate``; what was written is JSON.

    Raises:
        PreflightError: The library is not installed.
        RecipeError: There is no such task.
    """
    if importlib.util.find_spec(HARNESS_MODULE) is None:
        raise PreflightError(
            "--tasks",
            f"no {HARNESS_MODULE}",
            f"the module {HARNESS_MODULE}",
            f"Install it: pip install 'distrain[{HARNESS_EXTRA}]'.",
        )
    config = HarnessConfig.model_validate(settings)
    for problem in filter(None, (task_problem(task, config) for task in config.tasks)):
        raise RecipeError("--tasks", *problem)
    run, folder = _model_of(target)
    text = config.model_dump_json()
    return run, folder, *_run_tool("harness", str(folder), text, *arguments, capture=True)


def _model_of(target: str) -> tuple[RunFolder | None, Path]:
    """Find a model's folder, or the one that a run has exported, and say which is loaded."""
    run, whose = None, ""
    folder = resolve_pretrained(target)
    if not config_file(folder).is_file():
        if (folder / ADAPTER_FILE).is_file():
            load_config(folder)  # which says what adapters are not, and names their base
        run = find_run(target)
        folder, whose = _exported(run, read_resolved(run.resolved))
    say(f"loads {folder}{whose}")
    return run, folder


def _run_tool(*arguments: str, capture: bool) -> tuple[ExitCode, str]:
    """Run a command of the runtime; return how it ended, and what it wrote if it is captured."""
    done = subprocess.run(
        [sys.executable, "-m", "distrain", *arguments],
        check=False,
        stdout=subprocess.PIPE if capture else None,
        encoding="utf-8",
    )
    is_ours = done.returncode in list(ExitCode)  # not that of a process that was killed
    return ExitCode(done.returncode) if is_ours else ExitCode.BUG, done.stdout or ""


def _exported(run: RunFolder, recipe: Recipe) -> tuple[Path, str]:
    """Find the latest export of a run, and say what it was made of."""
    for problem in missing_modules(recipe):
        raise problem
    for name, stage in reversed(recipe.stages.items()):
        folder = run.stage(name).huggingface
        if stage.kind == "export" and folder.is_dir():
            check_sources(run, name)
            built_on = read_sources(run.stage(name))
            steps = {
                need: built_on[need].step if need in built_on else committed_step(run, need)
                for need in stage.needs
            }
            made_of = [f"{need} at step {step:,}" for need, step in steps.items()]
            return folder, f", made by stage {name} of {', '.join(made_of)}"
    done = [n for n, s in recipe.stages.items() if s.kind == "export" and is_done(run, n)]
    raise no_export(run, done[-1] if done else None)


def no_export(run: RunFolder, done: str | None) -> PreflightError:
    """Return the error for a folder that is not there, though the stage ``done`` made it."""
    again = command_again(run, "--from", done) if done else f"distrain export {name_of(run)}"
    return PreflightError(
        f"run {run.root.name}",
        "no exported model",
        "the folder of a stage of kind export",
        f"Make it: `{again}`.",
    )
