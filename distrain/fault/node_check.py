"""Checks one node of a job: ``python -m distrain.fault.node_check RUN STAGE START``.

One process a node, started by srun before the stage is. It measures what it can alone, writes that
down, then meets the others and adds what takes several. Nothing of it judges: whoever started it
does, from all results together (``distrain.runs.node_checks``). It ends by itself, at the latest by
an alarm, whatever hangs.
"""

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore

from distrain.fault.measures import (
    content_of,
    gpu_problems,
    measure_products,
    open_files,
    write_and_read,
)
from distrain.runs.folder import RunFolder
from distrain.runs.node_checks import NodeResult
from distrain.runs.records import write_json

TARGET_S = 20
"""What it is meant to take at most, imports and the wait for other nodes' imports left out."""
MEET_S = 120.0
"""How long a node waits for the others, which still import torch from a file system that may be
cold for them alone."""
ALARM_S = 150
"""For everything after the imports."""
LINK_FLOATS = 1 << 20
ROUNDS = 3


class Check:
    """The check of one node.

    Args:
        nodes: Names of all, in the order of their numbers.
        number: Of this one.
        result: Where its result goes; beside it lies what is written to be read.
    """

    def __init__(self, nodes: Sequence[str], number: int, result: Path) -> None:
        self._nodes = nodes
        self._number = number
        self._path = result
        self._started = time.perf_counter()
        self._waited_s = 0.0
        self.found = NodeResult(nodes[number], open_files=open_files())

    def alone(self, gpus: int) -> None:
        """Measure what takes one node only."""
        kinds = [(torch.device("cpu"), torch.float32)]
        for number in range(torch.cuda.device_count()):
            device = torch.device("cuda", number)
            kinds += [(device, torch.float32), (device, torch.bfloat16)]
        torch.backends.cuda.matmul.allow_tf32 = False
        for device, dtype in kinds:
            name = f"{device} {str(dtype).removeprefix('torch.')}"
            speed, wrong = measure_products(device, dtype)
            self.found.products[name] = round(speed, 2)
            self._add_wrong(wrong)
        for problem in gpu_problems(gpus):
            self._add_wrong(problem)
        try:
            speed, wrong = write_and_read(self._written_by(self._number), self._number)
        except OSError as error:
            self._add_wrong(f"{self._path.parent}, which cannot be written ({error.strerror})")
        else:
            self.found.disk_mb_s = round(speed, 1)
            self._add_wrong(wrong)

    def together(self, address: str, port: int) -> None:
        """Measure what takes several."""
        began = time.perf_counter()
        try:
            store = self._meet(address, port)
        finally:  # the others' imports are no part of this node's check
            self._waited_s = time.perf_counter() - began
        if store is None:
            return
        dist.init_process_group(
            "gloo",
            store=store,
            rank=self._number,
            world_size=len(self._nodes),
            timeout=timedelta(seconds=TARGET_S),  # all are here by now
        )
        self.among_all()

    def among_all(self) -> None:
        """Measure it where the nodes have met, each a rank of the default group. Collective."""
        count = len(self._nodes)
        self.found.clock_s = self._clock()
        # After the meeting: all have written.
        neighbor = (self._number + 1) % count
        try:
            read = self._written_by(neighbor).read_bytes()
        except OSError as error:
            read = str(error).encode()
        if read != content_of(neighbor):
            self._doubt(neighbor)
        self._all_reduce()
        self._links()
        dist.barrier()

    def close(self) -> None:
        """Put down the whole, and leave nothing else."""
        self.write()
        self._written_by(self._number).unlink(missing_ok=True)

    def write(self) -> None:
        """Put down what is known by now."""
        self.found.seconds = round(time.perf_counter() - self._started - self._waited_s, 3)
        write_json(self._path, asdict(self.found))

    def _meet(self, address: str, port: int) -> TCPStore | None:
        """Wait for all nodes; ``None`` if not all came. The first one notes who did not."""
        deadline = time.monotonic() + MEET_S
        store = TCPStore(
            address,
            port,
            world_size=None,
            is_master=self._number == 0,
            timeout=timedelta(seconds=MEET_S),
            wait_for_workers=False,
        )
        store.set(f"here/{self._number}", "")
        absent = list(range(len(self._nodes)))
        while absent and time.monotonic() < deadline:
            absent = [number for number in absent if not store.check([f"here/{number}"])]
            time.sleep(0.02)
        if absent and self._number == 0:
            self.found.absent.extend(self._nodes[number] for number in absent)
        return None if absent else store

    def _clock(self) -> float:
        dist.barrier()
        clocks = [torch.zeros(1, dtype=torch.float64) for _ in self._nodes]
        dist.all_gather(clocks, torch.tensor([time.time()], dtype=torch.float64))
        return round(float(clocks[self._number] - clocks[0]), 3)

    def _all_reduce(self) -> None:
        """Add up whole numbers, whose sum is exact, and see how fast."""
        count, best_s = len(self._nodes), float("inf")
        expected = float(count * (count + 1) // 2)
        for _ in range(ROUNDS):
            values = torch.full((LINK_FLOATS,), float(self._number + 1))
            started = time.perf_counter()
            dist.all_reduce(values)
            best_s = min(best_s, time.perf_counter() - started)
            if not bool((values == expected).all()):
                self._add_wrong("a sum over all nodes that is not what they put in")
        self.found.all_reduce_mb_s = round(4 * LINK_FLOATS / best_s / 1e6, 1)

    def _links(self) -> None:
        """Exchange data with both neighbors in the ring of nodes, one after the other.

        A good node beside a bad one has another neighbor to show what it can do.
        """
        count, speeds = len(self._nodes), [0.0]
        # In a ring of an odd number one node has nobody left in each round, so there is one more.
        for shift in range(2 + count % 2):
            place = (self._number + shift) % count
            partner = (self._number + (1 if place % 2 == 0 else -1)) % count
            if count % 2 and place == count - 1:
                continue
            speeds += [self._exchange(partner) for _ in range(ROUNDS)]
        self.found.link_mb_s = round(max(speeds), 1)

    def _exchange(self, partner: int) -> float:
        mine = self._message()
        theirs = torch.empty(LINK_FLOATS)
        started = time.perf_counter()
        for work in (dist.isend(mine, partner), dist.irecv(theirs, partner)):
            assert work is not None, "both are of the group"
            work.wait()
        took_s = time.perf_counter() - started
        if not bool((theirs == float(partner)).all()):
            self._doubt(partner)
        return 8 * LINK_FLOATS / took_s / 1e6

    def _message(self) -> torch.Tensor:
        return torch.full((LINK_FLOATS,), float(self._number))

    def _written_by(self, number: int) -> Path:
        return self._path.with_name(f".written.{number}")

    def _doubt(self, number: int) -> None:
        if self._nodes[number] not in self.found.doubts:
            self.found.doubts.append(self._nodes[number])

    def _add_wrong(self, words: str) -> None:
        if words and words not in self.found.wrong:
            self.found.wrong.append(words)


def main(argv: list[str] | None = None) -> int:
    """Check this node; the exit code says nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("stage")
    parser.add_argument("start", help="name of the start of the job")
    parser.add_argument("--nodes", required=True, help="names of all, with commas")
    parser.add_argument("--number", type=int, required=True, help="of this one")
    parser.add_argument("--meet", required=True, help="address:port of the first")
    parser.add_argument("--gpus", type=int, default=0, help="that the job has on each node")
    arguments = parser.parse_args(argv)
    signal.alarm(ALARM_S)
    torch.set_num_threads(1)
    nodes = arguments.nodes.split(",")
    folder = RunFolder(arguments.run).stage(arguments.stage)
    name = nodes[arguments.number]
    check = Check(nodes, arguments.number, folder.check(arguments.start, name))
    check.alone(arguments.gpus)
    check.write()
    address, _, port = arguments.meet.rpartition(":")
    try:
        if len(nodes) > 1:
            check.together(address, int(port))
    except (RuntimeError, OSError) as error:
        sys.stdout.write(f"{socket.gethostname()}: the nodes do not meet: {error}\n")
    check.close()
    sys.stdout.flush()
    os._exit(0)  # gloo may abort an ordinary exit


if __name__ == "__main__":
    main()
