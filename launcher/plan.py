"""Recipe -> plan: which processes each stage gets, and the exact command that starts them.

Pure: reads no file and no machine, so that what ``distrain plan`` prints is what is started.
"""

from dataclasses import dataclass, replace

from distrain.config.axes import lay_out
from distrain.config.launch import LaunchConfig, SiteConfig
from distrain.config.layout import Layout, require_replicas, stage_order
from distrain.config.recipe import DISTRIBUTED_KINDS, PrepareStage, Recipe, TrainStage
from distrain.errors import NotFoundError
from distrain.runs.folder import RunFolder
from distrain.runs.phases import Phase
from distrain.runs.progress_page import WATCHDOG
from launcher.gpus import check_gpus, gpus_asked


@dataclass(frozen=True)
class StagePlan:
    """The processes of one stage."""

    name: str
    kind: str
    needs: tuple[str, ...]
    nodes: int
    processes_per_node: int
    num_threads: int | None
    """Intra-op threads per process; ``None``: the runtime chooses."""
    layout: Layout | None
    """How the ranks are cut; ``None`` for stages that run as one process."""
    accumulation: int | None
    """Microbatches per rank and optimizer step; ``None`` as for ``layout``."""
    tasks: int = 1
    """Array tasks of a scheduler that share the ranges of a prepare stage."""
    gpus_per_node: int = 0
    """What to ask the scheduler for, on each node."""
    watchdog: str = ""
    """``launch.watchdog`` as it reaches supervisors; empty: the defaults."""
    spare_nodes: int = 0
    """Further nodes of the job, which start nothing until another one is lost."""

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.nodes * self.processes_per_node

    @property
    def dp_size(self) -> int:
        """Parts into which the rows of a global batch are cut; 1 for stages without a layout."""
        return 1 if self.layout is None else self.layout.dp_size


@dataclass(frozen=True)
class Plan:
    """All stages, each after those it needs."""

    recipe: Recipe
    run: RunFolder
    stages: tuple[StagePlan, ...]
    site: SiteConfig | None = None
    """Of the scheduler that the stages are for; ``None``: there is none."""


def resolve_processes(launch: LaunchConfig, site: SiteConfig | None, local_gpus: int) -> int:
    """Return the processes per node: as asked, else one a GPU of the site or machine, else 1.

    ``site`` is that of a scheduler; ``None`` where the launcher starts the processes itself.
    """
    if launch.processes_per_node != "auto":
        return launch.processes_per_node
    if site is not None and site.gpus_per_node:
        return site.gpus_per_node
    if site is not None:
        return 1  # this machine is the login node, its GPUs say nothing
    return max(local_gpus, 1)


def make_plan(
    recipe: Recipe, run: RunFolder, processes_per_node: int, site: SiteConfig | None = None
) -> Plan:
    """Lay the stages of a recipe over processes; over a scheduler's GPUs too, given its site.

    Raises:
        RecipeError: The degrees of a stage do not multiply to its processes, its global batch
            cannot be cut that way, or the GPUs of the site's nodes are not as many as the
            processes.
    """
    if site is not None:
        check_gpus(recipe, processes_per_node, site)
    stages = [_plan_stage(recipe, name, processes_per_node) for name in stage_order(recipe)]
    if site is not None:
        stages = [_with_jobs(stage, recipe, site) for stage in stages]
    return Plan(recipe, run, tuple(stages), site)


def _with_jobs(stage: StagePlan, recipe: Recipe, site: SiteConfig) -> StagePlan:
    """Add what the jobs of a scheduler ask for."""
    section = recipe.stages[stage.name]
    has_ranges = isinstance(section, PrepareStage) and bool(section.data.text_sources)
    tasks = recipe.launch.prepare_tasks if has_ranges else 1
    gpus = gpus_asked(section, stage.processes_per_node, site)
    return replace(stage, tasks=tasks, gpus_per_node=gpus)


def _plan_stage(recipe: Recipe, name: str, processes_per_node: int) -> StagePlan:
    stage = recipe.stages[name]
    launch = recipe.launch
    if stage.kind not in DISTRIBUTED_KINDS or not isinstance(stage, TrainStage):
        watchdog = launch.watchdog.to_text()
        return StagePlan(name, stage.kind, stage.needs, 1, 1, None, None, None, watchdog=watchdog)
    nodes = launch.nodes
    world_size = nodes * processes_per_node
    layout, accumulation = lay_out(stage.parallelism, stage.training, world_size)
    require_replicas(stage, layout)
    return StagePlan(
        name=name,
        kind=stage.kind,
        needs=stage.needs,
        nodes=nodes,
        processes_per_node=processes_per_node,
        num_threads=stage.training.num_threads,
        layout=layout,
        accumulation=accumulation,
        watchdog=launch.watchdog.to_text(),
        spare_nodes=launch.spare_nodes,
    )


def select_stages(
    plan: Plan, only: tuple[str, ...] = (), start: str | None = None
) -> tuple[StagePlan, ...]:
    """Return the stages named by ``only``, or those from ``start`` on; all by default.

    Raises:
        NotFoundError: The recipe has no stage of that name.
    """
    names = [stage.name for stage in plan.stages]
    for name in (*only, *([start] if start else [])):
        if name not in names:
            raise NotFoundError(
                f"stage {name}",
                "no such stage in the recipe",
                "one of: " + ", ".join(names),
                "Name a stage of the recipe.",
            )
    if only:
        return tuple(stage for stage in plan.stages if stage.name in only)
    return plan.stages[names.index(start) if start else 0 :]


def stage_argv(stage: StagePlan, run: RunFolder, *, python: str) -> list[str]:
    """Return the command of each process of a stage; ``python`` has the runtime."""
    return [python, "-m", "distrain", "stage", str(run.root), stage.name]


def starting_argv(stage: StagePlan, run: RunFolder, *, python: str) -> list[str]:
    """Return the command that one node runs for a stage; every node runs the same.

    It forks the ranks of a training stage, and is the process itself of another one.
    """
    if stage.kind not in DISTRIBUTED_KINDS:
        return stage_argv(stage, run, python=python)
    command = [python, "-m", "distrain.fork_server", str(run.root), stage.name]
    return [*command, f"--ranks={stage.world_size}"]


def phase_argv(
    stage: StagePlan, run: RunFolder, phase: Phase, *, python: str, share: str | None
) -> list[str]:
    """Return the command that does one phase of a prepare stage, or one ``share`` of it."""
    argv = stage_argv(stage, run, python=python)
    return [*argv, f"--phase={phase}", *([f"--share={share}"] if share else [])]


def stage_env(stage: StagePlan) -> dict[str, str]:
    """Return the environment variables of a stage, to be added to the inherited ones."""
    env = {"PYTHONUNBUFFERED": "1"}
    if stage.num_threads is not None:
        env["OMP_NUM_THREADS"] = str(stage.num_threads)
    if stage.watchdog:
        env[WATCHDOG] = stage.watchdog
    return env
