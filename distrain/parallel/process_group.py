"""Begin and end of a process that is one of several ranks."""

import logging
import os
import sys
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist

from distrain.runs.rank_env import STORE_FD

log = logging.getLogger(__name__)


def take_device(device: torch.device) -> None:
    """Make a GPU the current one of this process: the first call there begins CUDA.

    Before the group: whatever names no device goes to the current one, by default GPU 0 on every
    rank of the node.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)


def start_process_group(device: torch.device, *, timeout_s: float = 1800) -> None:
    """Meet the other ranks, if a supervisor (or torchrun: who sets RANK) started any.

    Collective. Does nothing in a process of its own, and when the group was met already.

    Args:
        device: Of this rank, taken before; it decides between NCCL and gloo.
        timeout_s: How long a rank waits in one collective before it gives up.
    """
    # A single process stays alone, and needs no group.
    if "RANK" not in os.environ or dist.is_initialized():
        return
    timeout = timedelta(seconds=timeout_s)
    backend = "nccl" if device.type == "cuda" else "gloo"
    listening = os.environ.pop(STORE_FD, None)
    if listening is None:
        dist.init_process_group(backend, timeout=timeout)
        return
    store = dist.TCPStore(  # type: ignore[attr-defined]  # it is there, unannounced
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        int(os.environ["WORLD_SIZE"]),
        is_master=True,
        timeout=timeout,
        wait_for_workers=False,
        master_listen_fd=int(listening),
    )
    dist.init_process_group(
        backend,
        # The prefix that torch gives the others, who come by the environment: else they never meet.
        store=dist.PrefixStore("default_pg", store),  # type: ignore[attr-defined]
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=timeout,
    )


def local_rank() -> int:
    """Return which of this node's ranks this is, as torchrun says; 0 without it."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    """Return how many ranks run on this node, as whoever started them says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def finish(exit_code: int, *, together: bool = True) -> NoReturn:
    """End this process at once.

    Gloo aborts an ordinary exit at random (SIGABRT after correct results), because its threads
    outlive what they use; so nothing is torn down here. Everything worth keeping must have been
    written and closed before.

    Args:
        exit_code: Of the process.
        together: All ranks end here, so wait for the last one: a rank that leaves early breaks
            the connections of those still at work. False after an error on this rank.
    """
    if together and dist.is_initialized():
        try:
            # Not after an error on this rank: the others may never come here.
            dist.barrier()
        except RuntimeError as error:
            log.warning("another rank ended before this one: %s", error)
    # ``os._exit`` flushes nothing by itself.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
