"""One stage -> the text of its sbatch script, through ``slurm/stage.sbatch.j2``.

Pure but for reading the template. What the script does when Slurm signals it, when a node is lost
and when the stage ends is written, and explained, in the template.
"""

import json
import re
import shlex

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from distrain.config.launch import LaunchConfig, SiteConfig
from distrain.config.run_folder import RunFolder
from distrain.errors import RecipeError
from launcher.plan import Rendezvous, StagePlan, stage_argv, stage_env
from launcher.resources import resource_folder

TEMPLATE = "stage.sbatch.j2"
ENDPOINT = "${MASTER_ADDR}:${MASTER_PORT}"
START_ID = "${DISTRAIN_START}"
"""Variables of the script: the nodes are known when the job starts, not before."""
PATIENCE_MARGIN_S = 10
"""Left of the grace period when the script stops waiting for a stage that does not yield."""


def render_job(
    stage: StagePlan, run: RunFolder, launch: LaunchConfig, site: SiteConfig, python: str
) -> str:
    """Return the sbatch script of a stage.

    Args:
        stage: Its ``nodes`` and ``processes_per_node`` are asked for as they are.
        run: With an absolute path, the same on all nodes.
        launch: Time limit, grace period, restarts.
        site: What the cluster wants.
        python: Interpreter on the nodes.

    Raises:
        RecipeError: The grace period does not fit into the time limit, or a variable of the site
            has a name that no shell accepts.
        ValueError: The path of the run is relative.
    """
    if not run.root.is_absolute():
        raise ValueError(f"run folder {run.root} must be absolute: a job starts elsewhere")
    time_limit = launch.time_limit or site.time_limit
    _check_grace(launch.grace_period, time_limit)
    folder = run.stage(stage.name)
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            stage=stage.name,
            run_name=run.root.name,
            job_name=job_name(run, stage.name),
            log=f"{folder.logs}".replace("%", "%%") + "/slurm-%j.log",
            nodes=stage.nodes,
            gpus_per_node=_gpus(stage, site),
            site=site,
            time_limit=slurm_time(time_limit),
            grace_period=launch.grace_period,
            patience=max(launch.grace_period - PATIENCE_MARGIN_S, 1),
            max_restarts=launch.max_restarts,
            stage_folder=str(folder.path),
            control_folder=str(run.control),
            events=str(run.events),
            resume_command=f"distrain resume {shlex.quote(run.root.name)}",
            env=_variables(stage, site),
            command=_command(stage, run, python),
        )
    )


def job_name(run: RunFolder, stage: str) -> str:
    """Return the name under which ``squeue`` shows the job of a stage."""
    return f"{run.root.name}.{stage}"


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


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(resource_folder("slurm")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # shell, not HTML: every value passes `sh` or `directive`
    )
    environment.filters |= {"sh": shlex.quote, "directive": directive, "json": json.dumps}
    return environment


def _command(stage: StagePlan, run: RunFolder, python: str) -> str:
    """Quote the stage's command for the shell, but let the script's own variables through."""
    one_node = stage.nodes == 1
    rendezvous = Rendezvous("localhost:0" if one_node else ENDPOINT, START_ID)
    words = stage_argv(stage, run, python=python, rendezvous=rendezvous)
    own = {f"--rdzv-endpoint={ENDPOINT}", f"--rdzv-id={START_ID}"}
    return " \\\n  ".join(f'"{word}"' if word in own else shlex.quote(word) for word in words)


def _gpus(stage: StagePlan, site: SiteConfig) -> int:
    """All GPUs of a node for training, one for a stage of one process."""
    return site.gpus_per_node if stage.layout is not None else min(site.gpus_per_node, 1)


def _variables(stage: StagePlan, site: SiteConfig) -> dict[str, str]:
    for name in site.env:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise RecipeError(
                "site.env",
                f"the name {name!r}",
                "letters, digits and underscores, not starting with a digit",
                "Rename this variable in the site file.",
            )
    return stage_env(stage) | site.env


def _check_grace(grace_period: int, time_limit: int) -> None:
    if grace_period < time_limit:
        return
    raise RecipeError(
        "launch.grace_period",
        f"{grace_period} s with a time limit of {time_limit} s",
        "a grace period shorter than the time limit, or no step would be made between the two",
        f"Set launch.grace_period={max(time_limit // 2, 1)}s or a longer launch.time_limit.",
    )
