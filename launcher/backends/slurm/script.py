"""One job -> the text of its sbatch script, through the templates in ``slurm``.

Pure but for reading the template. What the job does when Slurm signals it, when a node is lost and
when the stage ends is the supervisor's (``job.py``), which the script becomes.
"""

import re
import shlex
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from distrain.config.launch import LaunchConfig, SiteConfig
from distrain.errors import RecipeError
from distrain.runs.command import as_typed
from distrain.runs.folder import RunFolder
from distrain.runs.strikes import StrikeRules
from launcher.backends.slurm.jobs import StageJob
from launcher.plan import phase_argv, stage_env, starting_argv
from launcher.resources import resource_folder

TEMPLATE = "job.sbatch.j2"
HOST = "${MASTER_ADDR}"
TASK_ID = "${SLURM_ARRAY_TASK_ID}"
"""Variables of the job: the nodes are known when it starts, not before."""
PATIENCE_MARGIN_S = 10
"""Left of the grace period when the job stops waiting for a stage that does not yield."""


def render_job(
    job: StageJob, run: RunFolder, launch: LaunchConfig, site: SiteConfig, python: str
) -> str:
    """Return the sbatch script of a job.

    Args:
        job: ``gpus_per_node`` of its stage are asked for on each of its nodes and spare ones.
        run: With an absolute path, the same on all nodes.
        launch: Time limit, grace period, restarts.
        site: What the cluster wants.
        python: Interpreter on the nodes.

    Raises:
        RecipeError: The grace period does not fit into the time limit.
        ValueError: The path of the run is relative.
    """
    if not run.root.is_absolute():
        raise ValueError(f"run folder {run.root} must be absolute: a job starts elsewhere")
    time_limit = launch.time_limit or site.time_limit
    _check_grace(launch.grace_period, time_limit)
    stage, folder = job.stage, run.stage(job.stage.name)
    log = folder.slurm_log("%A_%a" if job.tasks > 1 else "%j").name
    command = (
        _command(job, run, launch, python)
        if job.phase is None
        else _phase_command(job, run, python)
    )
    values = {
        "stage": stage.name,
        "phase": job.phase,
        "run_name": run.root.name,
        "job_name": job_name(run, job.name),
        "log": f"{folder.logs}".replace("%", "%%") + f"/{log}",
        "tasks": job.tasks,
        "nodes": stage.nodes + stage.spare_nodes,
        "has_spares": stage.spare_nodes > 0,
        "gpus_per_node": stage.gpus_per_node,
        "site": site,
        "time_limit": slurm_time(time_limit),
        "grace_period": launch.grace_period,
        "env": stage_env(stage) | site.env,
        "supervisor": shlex.join(_supervisor(job, run, launch, site, python)),
        "command": command,
    }
    return _environment().get_template(TEMPLATE).render(values)


def job_name(run: RunFolder, job: str) -> str:
    """Return the name under which ``squeue`` shows a job, given its name within the run."""
    return f"{run.root.name}.{job}"


def slurm_time(seconds: int) -> str:
    """Write a duration as Slurm's ``D-HH:MM:SS``."""
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days}-{hour:02}:{minute:02}:{second:02}"


def directive(value: str) -> str:
    """Quote a value of an ``#SBATCH`` line, which sbatch itself splits into words."""
    if re.fullmatch(r"[\w%+,./:@=-]+", value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _supervisor(
    job: StageJob, run: RunFolder, launch: LaunchConfig, site: SiteConfig, python: str
) -> list[str]:
    """Return the command that watches over the job, without what it starts."""
    words = [python, "-m", "launcher.backends.slurm.job", str(run.root), job.stage.name]
    words.append(f"--max-restarts={launch.max_restarts}")
    if job.phase is not None:
        return [*words, f"--phase={job.phase}"]
    again = as_typed(f"distrain resume {shlex.quote(run.root.name)}")
    patience = max(launch.grace_period - PATIENCE_MARGIN_S, 1)
    if launch.strikes != StrikeRules.limit:
        words.append(f"--strikes={launch.strikes}")
    if checks_nodes(job, launch):
        words.append("--node-checks")
    if job.stage.spare_nodes:
        words.append("--spares")
    if site.strikes is not None:
        words.append(f"--strikes-folder={Path(site.strikes).expanduser()}")
    return [*words, f"--patience={patience}", f"--resume={again}"]


def checks_nodes(job: StageJob, launch: LaunchConfig) -> bool:
    """Return whether the nodes of a job are checked before its stage begins."""
    stage = job.stage
    has_much_at_stake = stage.layout is not None and (stage.nodes > 1 or stage.gpus_per_node > 0)
    return launch.node_checks == "on" or (launch.node_checks == "auto" and has_much_at_stake)


def _quote(value: object) -> str:
    """Quote a text or a path for the shell."""
    return shlex.quote(str(value))


@cache  # reading and compiling a template takes longer than filling it
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(resource_folder("slurm")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # shell, not HTML: every value passes `sh` or `directive`
    )
    environment.filters |= {"sh": _quote, "directive": directive}
    return environment


def _command(job: StageJob, run: RunFolder, launch: LaunchConfig, python: str) -> str:
    """Quote what each node runs for the shell, but let the script's own variables through."""
    stage = job.stage
    words = [python, "-m", "launcher.backends.slurm.node", str(run.root), stage.name]
    words += [f"--processes={stage.world_size}", f"--max-restarts={launch.max_restarts}"]
    words += [f"--host={HOST}"] if stage.nodes > 1 else []
    if stage.spare_nodes:
        words += [f"--nodes={stage.nodes}", f"--grace={launch.grace_period}"]
    words += ["--", *starting_argv(stage, run, python=python)]
    return _quoted(words, {f"--host={HOST}"})


def _phase_command(job: StageJob, run: RunFolder, python: str) -> str:
    """As ``_command``, for one phase of the stage, or this task's share of it."""
    assert job.phase is not None
    share = f"{TASK_ID}/{job.tasks}" if job.tasks > 1 else None
    words = phase_argv(job.stage, run, job.phase, python=python, share=share)
    return _quoted(words, {f"--share={share}"})


def _quoted(words: Sequence[str], own: Collection[str]) -> str:
    return " \\\n  ".join(f'"{word}"' if word in own else shlex.quote(word) for word in words)


def _check_grace(grace_period: int, time_limit: int) -> None:
    if grace_period < time_limit:
        return
    raise RecipeError(
        "launch.grace_period",
        f"{grace_period} s with a time limit of {time_limit} s",
        "a grace period shorter than the time limit, or no step would be made between the two",
        f"Set launch.grace_period={max(time_limit // 2, 1)}s or a longer launch.time_limit.",
    )
