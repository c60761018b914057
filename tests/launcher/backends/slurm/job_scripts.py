"""Recipes on sites, drawn at random, and what a script of theirs asks Slurm for and starts.

The reader of scripts knows sbatch's rules and torchrun's flags, and nothing of the code that writes
them; what a job should hold is told from the drawn settings alone.
"""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from distrain.runs.folder import RunFolder
from launcher.backends.protocol import SubmittedJob
from launcher.backends.slurm.queue import submit_run
from launcher.plan import Plan
from launcher.planning import load, plan_recipe, site_of

TRAINING = ("pretrain", "sft")


@dataclass(frozen=True)
class Case:
    """A recipe and a site as they are written to files."""

    recipe: dict[str, Any]
    site: dict[str, Any]

    @property
    def launch(self) -> dict[str, Any]:
        launch: dict[str, Any] = self.recipe["launch"]
        return launch

    @property
    def site_gpus(self) -> int:
        gpus: int = self.site.get("gpus_per_node", 0)
        return gpus

    @property
    def processes_per_node(self) -> int:
        asked = self.launch.get("processes_per_node", "auto")
        return max(self.site_gpus, 1) if asked == "auto" else int(asked)

    def is_on_gpus(self, stage: str) -> bool:
        if stage in TRAINING:
            device = self.recipe["stages"][stage]["training"].get("device", "auto")
            return device == "cuda" or (device == "auto" and self.site_gpus > 0)
        return stage == "evaluate" and self.site_gpus > 0

    @property
    def is_a_mismatch(self) -> bool:
        """Whether a training stage would hold idle GPUs, or have processes without one."""
        trained = [name for name in TRAINING if name in self.recipe["stages"]]
        if not self.site_gpus or not any(map(self.is_on_gpus, trained)):
            return False
        if self.site.get("exclusive"):
            return self.processes_per_node != self.site_gpus
        return self.processes_per_node > self.site_gpus

    def plan(self, folder: Path, *overrides: str) -> Plan:
        """Plan it as `distrain submit` does, from files."""
        recipe, site = folder / "recipe.yaml", folder / "site.yaml"
        recipe.write_text(json.dumps(self.recipe))
        site.write_text(json.dumps(self.site))
        loaded = load(str(recipe), [*overrides, f"launch.site={site}"])
        return plan_recipe(loaded.recipe, RunFolder(folder / "runs" / "drawn"))


def drawn(
    seed: int, site_gpus: tuple[int, ...] = (0, 1, 2, 4, 8), nodes: int = 6
) -> Iterator[Case]:
    """Draw cases for ever; a batch fits its processes, GPUs need not."""
    random = Random(seed)
    while True:
        yield _draw(random, random.choice(site_gpus), random.randint(1, nodes), max(site_gpus))


def _draw(random: Random, gpus: int, nodes: int, most: int) -> Case:
    site: dict[str, Any] = {"gpus_per_node": gpus, "time_limit": random.choice(["1h", "2d"])}
    site |= random.choice([{}, {"exclusive": True}])
    site |= random.choice([{}, {"account": "our group", "partition": "gpu,big", "qos": "a=b"}])
    site |= random.choice([{}, {"setup": ["module load cuda", "echo exec --nproc-per-node=3"]}])
    site |= random.choice([{}, {"env": {"NOTE": "#SBATCH --gpus-per-node=9"}}])
    processes = random.choice(["auto", gpus or 1, random.randint(1, most)])
    world_size = nodes * (processes if isinstance(processes, int) else max(gpus, 1))
    micro = random.choice([1, 2, 4])
    training = {
        "sequence_length": 16,
        "max_steps": 9,
        "micro_batch_size": micro,
        "global_batch_size": world_size * random.choice([1, micro, 3 * micro]),
    }
    strategies = ["single"] if world_size == 1 else ["ddp", "fsdp", "deepspeed"]
    strategy = random.choice(["auto", *strategies])
    parallelism: dict[str, Any] = {"strategy": strategy}
    if strategy == "fsdp":
        parallelism |= random.choice([{}, {"data_parallel_shard": world_size}])
    stages: dict[str, Any] = {
        "prepare": {
            "kind": "prepare",
            "data": {"source": {"kind": "python_stdlib"}},
            "pairs": {"kind": "docstrings"},
        }
    }
    needs = "prepare"
    for name in random.choice([("pretrain",), ("pretrain", "sft")]):
        device = random.choice(["auto", "auto", "cuda", "cpu"])
        stages[name] = {
            "kind": name,
            "needs": needs,
            "training": training | random.choice([{}, {"device": device}]),
            "parallelism": parallelism,
        }
        needs = name
    for name in random.choice([(), ("evaluate",), ("evaluate", "export")]):
        stages[name] = {"kind": name, "needs": needs}
    launch = {
        "backend": "slurm",
        "nodes": nodes,
        "processes_per_node": processes,
        "prepare_tasks": random.choice([1, 1, 5]),
    }
    return Case({"version": 1, "name": "drawn", "stages": stages, "launch": launch}, site)


def scripts_of(plan: Plan) -> list[SubmittedJob]:
    """Return the scripts that would be queued."""
    site = site_of(plan.recipe.launch)
    assert site is not None
    return submit_run(plan, plan.recipe.launch, site, dry_run=True)


@dataclass(frozen=True)
class Asked:
    """What one script asks for and starts."""

    nodes: int
    tasks_per_node: int
    gpus_per_node: int
    array: int
    """Tasks of the array; 1: it is none."""
    exclusive: bool
    processes_per_node: int

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node * self.array

    @property
    def processes(self) -> int:
        return self.nodes * self.tasks_per_node * self.processes_per_node * self.array


def read_script(text: str) -> Asked:
    """Read a script as sbatch and bash would."""
    options: dict[str, str] = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            break  # where sbatch stops looking
        if line.startswith("#SBATCH "):
            for word in shlex.split(line.removeprefix("#SBATCH ")):
                name, _, value = word.removeprefix("--").partition("=")
                assert name not in options, f"{name} is asked for twice"
                options[name] = value
    first, last = re.fullmatch(r"(\d+)-(\d+)", options.get("array", "0-0"), re.ASCII).groups()  # type: ignore[union-attr]
    _, _, rest = text.partition("<<'END_OF_NODE_SCRIPT'")
    node_script, _, _ = rest.partition("\nEND_OF_NODE_SCRIPT\n")
    command = shlex.split(node_script[node_script.rindex("\nexec ") :])
    flags = dict(word.split("=", 1) for word in command if re.match(r"--(ranks|processes)=", word))
    is_forked = "distrain.fork_server" in command
    ranks, nodes = int(flags.get("--ranks", "1")), int(options["nodes"])
    assert is_forked == ("--ranks" in flags)
    assert int(flags.get("--processes", "1")) == ranks
    assert any(word.startswith("--host=") for word in command) == (nodes > 1)
    srun = re.search(r"^srun (.*) \\$", text, re.MULTILINE)
    assert srun is not None
    assert not re.search(r"--(ntasks|nodes|gpus|gres)|(^| )-[nNG]", srun[1]), "another job step"
    return Asked(
        nodes=nodes,
        tasks_per_node=int(options["ntasks-per-node"]),
        gpus_per_node=int(options.get("gpus-per-node", "0")),
        array=int(last) - int(first) + 1,
        exclusive="exclusive" in options,
        processes_per_node=ranks // nodes,
    )


def complaints(case: Case, job: SubmittedJob) -> list[str]:
    """Name what a script asks for and should not, or the other way round."""
    stage, _, phase = job.stage.partition(".")
    asked = read_script(job.text)
    is_training = stage in TRAINING
    on_gpus = case.is_on_gpus(stage) and not phase
    nodes = case.launch["nodes"] if is_training else 1
    processes = case.processes_per_node if is_training else 1
    tasks = case.launch["prepare_tasks"] if phase in ("clean", "encode") else 1
    wanted = {
        "GPUs": (asked.gpus, asked.processes if on_gpus else 0),
        "GPUs a node": (asked.gpus_per_node, processes if on_gpus else 0),
        "nodes": (asked.nodes, nodes),
        "tasks a node": (asked.tasks_per_node, 1),
        "processes": (asked.processes, nodes * processes * tasks),
        "tasks": (asked.array, tasks),
    }
    found = [f"{job.stage}: {n}: {a}, not {w}" for n, (a, w) in wanted.items() if a != w]
    if case.site_gpus and asked.gpus_per_node > case.site_gpus:
        found.append(f"{job.stage}: more GPUs than a node has")
    if asked.exclusive and is_training and on_gpus and case.site_gpus > asked.gpus_per_node:
        found.append(f"{job.stage}: idle GPUs on a node of its own")
    return found
