"""Begin and end of a process that is one of several ranks."""

import logging
import os
import sys
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist

log = logging.getLogger(__name__)


def start_process_group(device: torch.device, *, timeout_s: float = 1800) -> None:
    """Meet the other ranks, if torchrun (or whoever sets RANK and WORLD_SIZE) started any.

    Collective. Does nothing in a process of its own, and when the group was met already.

    Args:
        device: Of this rank; it decides between NCCL and gloo.
        timeout_s: How long a rank waits in one collective before it gives up.
    """
    if device.type == "cuda":
        # Before the group: whatever names no device goes to the current one, by default GPU 0 on
        # every rank of the node.
        torch.cuda.set_device(device)
    # One process without torchrun stays alone, and needs no group.
    if "RANK" not in os.environ or dist.is_initialized():
        return
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout_s)
    )


def local_world_size() -> int:
    """Return how many ranks run on this node, as torchrun says."""
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
