"""Run a test body on several gloo ranks of this machine."""

import faulthandler
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessContext, start_processes

# The fork server imports torch once, and never touches a device: a rank then starts in
# 0.1 s, where a spawned one takes as long as ``import torch``.
multiprocessing.set_forkserver_preload(
    ["torch", "torch.distributed", "torch.distributed.checkpoint", "torch._dynamo", "peft"]
)


def run_ranks(
    folder: Path, world_size: int, body: Callable[..., None], *args: object, timeout_s: float = 180
) -> None:
    """Call ``body(*args)`` on ``world_size`` ranks, one process each; fail if one fails.

    The ranks meet through a file in ``folder``, not through a port, so that tests may run
    in parallel. ``body`` is pickled: it must be a function of the test module. Changes of
    ``os.environ`` do not reach the ranks; pass values in ``args``.

    Raises:
        TimeoutError: A rank still ran after ``timeout_s`` seconds; all were killed.
    """
    ranks = _start(folder, world_size, body, args, timeout_s)
    deadline = time.monotonic() + timeout_s
    while not ranks.join(timeout=1):
        if time.monotonic() > deadline:
            raise TimeoutError(_kill(ranks, timeout_s))


def exit_codes(
    folder: Path, world_size: int, body: Callable[..., None], *args: object, timeout_s: float = 180
) -> list[int | None]:
    """Call ``body`` as ``run_ranks`` does, let each rank end by itself, and say how each did.

    Raises:
        TimeoutError: As of ``run_ranks``.
    """
    ranks = _start(folder, world_size, body, args, timeout_s)
    deadline = time.monotonic() + timeout_s
    for process in ranks.processes:
        process.join(max(0.0, deadline - time.monotonic()))
    if any(process.is_alive() for process in ranks.processes):
        raise TimeoutError(_kill(ranks, timeout_s))
    return [process.exitcode for process in ranks.processes]


def _start(
    folder: Path,
    world_size: int,
    body: Callable[..., None],
    args: tuple[object, ...],
    timeout_s: float,
) -> ProcessContext:
    folder.mkdir(parents=True, exist_ok=True)
    store = f"file://{folder / f'store-{time.monotonic_ns()}'}"
    ranks: ProcessContext | None = start_processes(
        _rank_main,
        (world_size, store, body, args, timeout_s),
        nprocs=world_size,
        join=False,
        start_method="forkserver",
    )
    assert ranks is not None
    return ranks


def _kill(ranks: ProcessContext, timeout_s: float) -> str:
    stuck = [rank for rank, process in enumerate(ranks.processes) if process.is_alive()]
    for process in ranks.processes:
        process.kill()
    return f"ranks {stuck} of {len(ranks.processes)} still ran after {timeout_s} s"


def _rank_main(
    rank: int,
    world_size: int,
    store: str,
    body: Callable[..., None],
    args: tuple[object, ...],
    timeout_s: float,
) -> None:
    # Before they are killed: a hang that nobody can repeat still says where each rank was.
    faulthandler.dump_traceback_later(0.9 * timeout_s)
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
    )
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    body(*args)  # a failure leaves as an exception, and start_processes reports it
    dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # gloo aborts an ordinary exit at random
