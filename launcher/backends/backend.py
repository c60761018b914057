"""The backends that there are, and what is asked of them together."""

from collections.abc import Mapping, Sequence
from itertools import chain

from distrain.config.launch import LaunchConfig
from distrain.config.recipe import Recipe
from distrain.runs.folder import RunFolder
from distrain.runs.lock import is_held
from distrain.runs.records import read_state
from launcher.backends.local import LocalBackend
from launcher.backends.protocol import Backend, RunJobs
from launcher.backends.slurm.backend import SlurmBackend
from launcher.backends.torchrun import TorchrunBackend

BACKENDS: dict[str, Backend] = {
    "local": LocalBackend(),
    "torchrun": TorchrunBackend(),
    "slurm": SlurmBackend(),
}
"""By the name in ``launch.backend``."""

HERE: Backend = BACKENDS["local"]
"""Runs a single stage where the user is, wherever the run was made."""


def backend_of(launch: LaunchConfig) -> Backend:
    """Return the backend that a recipe asks for."""
    return BACKENDS[launch.backend]


def is_on_one_machine(launch: LaunchConfig) -> bool:
    """Return whether all processes belong to the launcher's machine, so that locks tell of them.

    A lock says nothing about other machines, where the holder of another backend's may live.
    """
    return not backend_of(launch).is_queued and launch.nodes == 1


def running_stages(run: RunFolder, recipe: Recipe) -> dict[str, int]:
    """Return the stages that run now, with their attempt."""
    is_here = is_on_one_machine(recipe.launch)
    found = {}
    for name in recipe.stages:
        folder = run.stage(name)
        state = read_state(folder)
        if state is None or state["state"] != "running":
            continue
        if is_held(folder.lock) or not is_here:  # elsewhere, a lock need not be seen from here
            found[name] = state["attempt"]
    return found


def jobs_of_runs(
    runs: Sequence[RunFolder], backends: Mapping[str, Backend] = BACKENDS
) -> list[RunJobs]:
    """Return what schedulers know of the jobs of each run.

    All are asked: a run may have been queued before it was started in another way.
    """
    answers = [backend.states(runs) for backend in backends.values()]
    return [
        RunJobs(
            tuple(chain.from_iterable(answer.jobs for answer in of_run)),
            next((answer.problem for answer in of_run if answer.problem), ""),
        )
        for of_run in zip(*answers, strict=True)
    ]
