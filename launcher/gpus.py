"""How many GPUs a stage asks for: one for each process that computes on one, never another number.

What the processes of a stage compute on is known before they start: on what ``training.device``
names, and with ``auto`` on GPUs where the site has them. ``evaluate`` always takes the latter; all
other stages compute on the CPU. Pure.
"""

from collections.abc import Iterator

from distrain.config.axes import lay_out
from distrain.config.launch import SiteConfig
from distrain.config.layout import microbatches_per_rank, resolve_layout
from distrain.config.recipe import EvaluateStage, Recipe, TrainStage
from distrain.config.section import Section
from distrain.errors import RecipeError
from launcher.text import plural


def gpus_asked(stage: Section, processes_per_node: int, site: SiteConfig) -> int:
    """Return the GPUs that a stage asks for on each of its nodes."""
    if isinstance(stage, EvaluateStage):
        return min(site.gpus_per_node, 1)  # it is one process
    if not isinstance(stage, TrainStage):
        return 0
    device = stage.training.device
    on_gpus = device == "cuda" or (device == "auto" and site.gpus_per_node > 0)
    return processes_per_node if on_gpus else 0


def check_gpus(recipe: Recipe, processes_per_node: int, site: SiteConfig) -> None:
    """Refuse a job that would hold GPUs without a process, or start processes without a GPU.

    Raises:
        RecipeError: More processes a node than GPUs, or fewer where a job gets whole nodes; names
            three ways out.
    """
    gpus, nodes = site.gpus_per_node, recipe.launch.nodes
    names = [n for n, stage in _training(recipe) if gpus_asked(stage, processes_per_node, site)]
    fits = processes_per_node == gpus or (processes_per_node < gpus and not site.exclusive)
    if not gpus or not names or fits:
        return
    found = f"{plural(processes_per_node, 'process')} a node on GPUs ({', '.join(names)})"
    if processes_per_node > gpus:
        expected = f"at most {gpus}, the site's gpus_per_node"
        other = f"gpus_per_node: {processes_per_node} in the site file if the nodes have them"
    else:
        found += f", where jobs get whole nodes of {plural(gpus, 'GPU')}"
        started = plural(nodes * processes_per_node, "process")
        expected = f"{gpus}, or {nodes * gpus} GPUs would be held for {started}"
        other = "exclusive: false in the site file if jobs may share a node"
    every = " ".join(_on_all_gpus(recipe, processes_per_node, gpus))
    remedy = f"Set {every}, or training.device=cpu, or {other}."
    raise RecipeError("launch.processes_per_node", found, expected, remedy)


def _on_all_gpus(recipe: Recipe, processes_per_node: int, gpus: int) -> list[str]:
    """Return overrides with which every GPU of each node gets a process, as near as they come."""
    nodes = recipe.launch.nodes
    most = max(nodes, -(-nodes * processes_per_node // gpus))  # as many processes as asked for
    # Rather another number of nodes than another batch: the batch decides what is learnt.
    for count in range(most, 0, -1):
        if all(_fits(stage, count * gpus) for _, stage in _training(recipe)):
            changed = [f"launch.nodes={count}"] if count != nodes else []
            return [f"launch.processes_per_node={gpus}", *changed]
    changes = [
        word for name, stage in _training(recipe) for word in _fitted(name, stage, nodes * gpus)
    ]
    return [f"launch.processes_per_node={gpus}", *changes]


def _training(recipe: Recipe) -> Iterator[tuple[str, TrainStage]]:
    return ((name, s) for name, s in recipe.stages.items() if isinstance(s, TrainStage))


def _fits(stage: TrainStage, world_size: int) -> bool:
    try:
        lay_out(stage.parallelism, stage.training, world_size)
    except RecipeError:
        return False
    return True


def _fitted(name: str, stage: TrainStage, world_size: int) -> Iterator[str]:
    """Yield the overrides with which a stage runs on that many processes."""
    dp_size = world_size
    try:
        dp_size = resolve_layout(stage.parallelism, world_size).dp_size
    except RecipeError:
        if stage.parallelism.strategy == "single":
            yield f"{name}.parallelism.strategy=auto"
        for key in ("data_parallel_replicate", "data_parallel_shard"):
            if getattr(stage.parallelism, key) != "auto":
                yield f"{name}.parallelism.{key}=auto"
    try:
        microbatches_per_rank(stage.training, dp_size)
    except RecipeError:
        share = -(-stage.training.global_batch_size // dp_size)
        limit = stage.training.micro_batch_size
        if share > limit:
            share = -(-share // limit) * limit
        yield f"{name}.training.global_batch_size={share * dp_size}"
