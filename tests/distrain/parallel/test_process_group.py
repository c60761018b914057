import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys, torch, logging
import torch.distributed as dist
from distrain.parallel.process_group import finish, start_process_group

start_process_group(torch.device("cpu"), timeout_s=60)
start_process_group(torch.device("cpu"))
total = torch.ones(1)
if dist.is_initialized():
    dist.all_reduce(total)
sys.stdout.write(f"{dist.is_initialized()} {int(total)}")
rank = dist.get_rank() if dist.is_initialized() else 0
finish(int(sys.argv[1]) + rank, together=len(sys.argv) < 3)
"""


def start(rank: int | None, port: int, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    environment.pop("RANK", None)
    if rank is not None:
        environment |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("arguments", [("0",), ("75", "alone")])
def test_ranks_meet_and_end_with_the_code_they_say(arguments: tuple[str, ...]):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [start(rank, port, *arguments) for rank in (0, 1)]
    outputs = [rank.communicate(timeout=120)[0] for rank in ranks]

    assert outputs == ["True 2", "True 2"]
    assert [rank.returncode for rank in ranks] == [int(arguments[0]), int(arguments[0]) + 1]


def test_a_process_of_its_own_makes_no_group():
    process = start(None, 0, "3")

    assert process.communicate(timeout=120)[0] == "False 1"
    assert process.returncode == 3
