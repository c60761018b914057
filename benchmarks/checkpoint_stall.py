"""How long the loop stands still for an asynchronous save, over a memcpy of the same bytes.

``python -m benchmarks.checkpoint_stall``: one process, then two ranks under torchrun. Blocked is
the call that copies the state and the poll after it; nothing else is waited for before the next
update. The save before is finished by then, as it is when saves are rarer than they are long.
"""

import argparse
import ctypes
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.measuring import ROUNDS, machine_line, table
from distrain.checkpoint.manager import CheckpointManager
from distrain.config.training import CheckpointConfig
from distrain.parallel.collectives import HostGroup
from distrain.parallel.global_tensor import Box, GlobalTensor, State

KINDS = ("model", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Size:
    """A Llama-style decoder."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    vocabulary: int
    each_rank: bool
    """Every rank holds this much; otherwise the ranks share it."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter."""
        shapes: dict[str, tuple[int, ...]] = {"embed": (self.vocabulary, self.hidden)}
        for layer in range(self.layers):
            for name in "qkvo":
                shapes[f"{layer}.{name}"] = (self.hidden, self.hidden)
            for name in ("gate", "up"):
                shapes[f"{layer}.{name}"] = (self.intermediate, self.hidden)
            shapes[f"{layer}.down"] = (self.hidden, self.intermediate)
            shapes[f"{layer}.norm1"] = shapes[f"{layer}.norm2"] = (self.hidden,)
        return {**shapes, "norm": (self.hidden,), "head": (self.vocabulary, self.hidden)}


SIZES = (
    Size("quickstart", 192, 512, 4, 4096, each_rank=False),
    Size("large", 512, 1536, 4, 4096, each_rank=True),
)


def build_state(size: Size, host: HostGroup) -> tuple[State, Tensor]:
    """Make weights and moments of one rank, cut in rows, as views of one buffer."""
    factor = host.world_size if size.each_rank else 1
    shapes = {name: (rows * factor, *rest) for name, (rows, *rest) in size.shapes().items()}
    local = {name: (shape[0] // host.world_size, *shape[1:]) for name, shape in shapes.items()}
    numel = sum(math.prod(shape) for shape in local.values())
    buffer = torch.randn(len(KINDS) * numel)
    state: State = {}
    begin = 0
    for kind in KINDS:
        for name, shape in local.items():
            tensor = buffer.narrow(0, begin, math.prod(shape)).view(shape)
            begin += tensor.numel()
            offsets = (host.rank * shape[0],) + (0,) * (len(shape) - 1)
            state[f"{kind}/{name}"] = GlobalTensor(
                shapes[name], tensor.dtype, (Box(offsets, tensor),)
            )
    return state, buffer


@dataclass
class Spent:
    """Seconds of each round, that of the slowest rank: the others wait for it."""

    wall: list[float]
    cpu: list[float]


def timed(body: Callable[[], None], host: HostGroup, spent: Spent) -> None:
    """Measure one call: wall time, and CPU time of the calling thread."""
    host.barrier()
    wall, cpu = time.perf_counter(), time.thread_time()
    body()
    wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
    wall, cpu = host.max(wall, cpu)
    spent.wall.append(wall)
    spent.cpu.append(cpu)


def measure(size: Size, host: HostGroup, folder: Path) -> list[str]:
    """Measure both in turns; return a row of the table."""
    state, source = build_state(size, host)
    target = torch.zeros_like(source)
    events: list[dict[str, object]] = []
    checkpoints = CheckpointManager(
        folder / size.name,
        folder / "quarantine",
        config=CheckpointConfig(keep_last=1),
        host=host,
        on_event=lambda _, fields: events.append(fields),
    )
    checkpoints.restore(state)  # as a stage begins; the buffers are warm from here on
    step = 0

    def memcpy() -> None:
        ctypes.memmove(target.data_ptr(), source.data_ptr(), source.nbytes)

    def save() -> None:
        checkpoints.save(step, state, {})
        checkpoints.poll(host.any(checkpoints.is_saving))

    copied, blocked = Spent([], []), Spent([], [])
    memcpy()
    for number in range(ROUNDS + 1):
        step = number
        for what in (0, 1) if number % 2 else (1, 0):
            if what:
                timed(memcpy, host, copied)
            else:
                timed(save, host, blocked)
                checkpoints.wait()  # not counted: the next update is long before this
    ratios = [a / b for a, b in zip(blocked.wall[1:], copied.wall[1:], strict=True)]
    cpu_ratios = [a / b for a, b in zip(blocked.cpu[1:], copied.cpu[1:], strict=True)]
    return [
        size.name,
        str(host.world_size),
        f"{source.nbytes / 1e6:.0f}",
        f"{statistics.median(blocked.wall[1:]) * 1e3:.1f}",
        f"{statistics.median(copied.wall[1:]) * 1e3:.1f}",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
        f"{statistics.median(cpu_ratios):.2f}",
        f"{blocked.wall[0] * 1e3:.1f}",
        f"{statistics.median(float(str(e['write_s'])) for e in events) if events else 0:.2f}",
        f"{os.getloadavg()[0]:.1f}",
    ]


def measure_all(folder: Path) -> None:
    """Be one of the processes; rank 0 prints its rows."""
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    host = HostGroup()
    for size in SIZES:
        row = measure(size, host, folder / str(host.world_size))
        if host.rank == 0:
            sys.stdout.write("ROW " + "\t".join(row) + "\n")
    host.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo aborts an ordinary exit at random


def main() -> None:
    """Run both cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", type=Path, help="be one of the processes, in this folder")
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    arguments = parser.parse_args()
    if arguments.measure:
        measure_all(arguments.measure)
    rows = []
    before = machine_line()
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "--module"]
    for launch in ([], torchrun):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            command = [sys.executable, "-m", *launch, "benchmarks.checkpoint_stall"]
            output = subprocess.run(
                [*command, "--measure", folder], capture_output=True, text=True, check=False
            )
        found = [line for line in output.stdout.splitlines() if line.startswith("ROW ")]
        if not found:
            raise SystemExit(output.stdout + output.stderr)
        rows += [line.removeprefix("ROW ").split("\t") for line in found]
    head = (
        *("state", "ranks", "MB a rank", "blocked ms", "memcpy ms", "blocked / memcpy (range)"),
        *("CPU time / memcpy", "first save ms", "write s", "load"),
    )
    sys.stdout.write(f"{before}\nmedian of {ROUNDS}, slowest rank\n\n{table(head, rows)}\n")


if __name__ == "__main__":
    main()
