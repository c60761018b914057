"""Stages of a recipe as processes of their own, forked from the server of ``tests.ranks``.

Not from that of the tests: it has threads, and a fork of it may inherit a lock that nobody will
release.
"""

import multiprocessing
import os
import signal
import time

import torch.distributed as dist

import tests.ranks  # noqa: F401  (its fork server has torch and peft loaded)
from distrain.__main__ import run_stage
from distrain.config.lineage import MODEL_KINDS
from distrain.runs.folder import RunFolder
from tests.runs.processes import attempts

FIRST_SAVE = "step_000005"


def rank_main(recipe, run, name, rank, world_size):
    if world_size > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world_size),
            LOCAL_WORLD_SIZE=str(world_size),
        )
        meeting = f"file://{run.parent}/meeting-{os.getppid()}-{attempts(run, name)}-{name}"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    run_stage(recipe, RunFolder(run), name, rank)


def start(recipe, run, name):
    """Begin a stage, each rank in a process of its own; a lonely one for what is not trained."""
    processes = recipe.launch.processes_per_node
    is_distributed = isinstance(processes, int) and recipe.stages[name].kind in MODEL_KINDS
    ranks = processes if is_distributed else 1
    server = multiprocessing.get_context("forkserver")
    children = [
        server.Process(target=rank_main, args=(recipe, run, name, rank, ranks))
        for rank in range(ranks)
    ]
    for child in children:
        child.start()
    return children


def finish(recipe, run, *names):
    for name in names:
        children = start(recipe, run, name)
        for child in children:
            child.join(180)
        assert {child.exitcode for child in children} == {0}, name


def kill_after_first_save(recipe, run, name):
    children = start(recipe, run, name)
    saved = run / name / "checkpoints" / FIRST_SAVE
    while not saved.exists() and all(child.is_alive() for child in children):
        time.sleep(0.002)
    for child in reversed(children):
        child.kill()
    for child in children:
        child.join()
    assert {child.exitcode for child in children} == {-signal.SIGKILL}, "killed before its end"
