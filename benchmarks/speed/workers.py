"""The processes of the comparison: each makes steps when it is told to, and says what they cost.

``python -m benchmarks.speed.workers KIND SIZE FOLDER``, under torchrun for several ranks.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.side_by_side import Rounds
from benchmarks.speed.plain import PlainLlama, plain_loop, qwen3
from benchmarks.speed.sizes import SIZES, Size, section_of
from distrain.fault.page import begin_steps, mark, open_page
from distrain.runs.progress_page import PAGES

if TYPE_CHECKING:
    from distrain.monitor.step_result import StepResult
    from distrain.train.run import Run

Loop = Callable[[], None]


def bare(size: Size) -> Loop:
    """Plain torch; FSDP2 block by block on several ranks, without resharding."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return plain_loop(size)
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo")
    model = PlainLlama(size)
    for block in model.blocks:
        fully_shard(block, reshard_after_forward=False)
    fully_shard(model, reshard_after_forward=False)
    return plain_loop(size, model)


def bare_qwen3(size: Size) -> Loop:
    """The module of transformers in the same loop."""
    return plain_loop(size, qwen3(size))


def distrain(size: Size) -> Loop:
    """The own Llama through the training loop, as a stage runs it."""
    return ours(size, section_of(size, "llama"))


def distrain_marked(size: Size) -> Loop:
    """The own Llama, with a progress page that somebody may look at."""
    os.environ[PAGES] = tempfile.mkdtemp(prefix="pages-", dir="/dev/shm")
    open_page()
    begin_steps(0)
    return distrain(size)


def distrain_compiled(size: Size) -> Loop:
    """The own Llama with compiled blocks; its first round is long."""
    return ours(size, section_of(size, "llama"), compile_blocks=True)


def distrain_qwen3(size: Size) -> Loop:
    """The same module of transformers through the training loop."""
    return ours(size, section_of(size, "qwen3"))


def ours(size: Size, model: dict[str, object], *, compile_blocks: bool = False) -> Loop:
    """Make steps of a pretrain stage."""
    from benchmarks.speed.synthetic import build_synthetic

    folder = Path(tempfile.mkdtemp(prefix="speed-"))
    step = stage_step(build_synthetic(size, model, folder, compile_blocks=compile_blocks))

    def made() -> None:
        step()

    return made


def stage_step(run: "Run") -> "Callable[[], StepResult]":
    """Return a function that makes a step of a stage: loader, wishes, records; nothing is saved."""
    from distrain.train.agreed import agree
    from distrain.train.loop import Clock, record, train_step
    from distrain.train.progress import Progress

    batches, steps = run.loader.batches(), count()

    def step() -> "StepResult":
        clock, number = Clock(), next(steps)
        mark("data", number)
        own = run.wishes.own()
        batch = next(batches)
        clock.data_arrived()
        agreed = agree(run, batch, own)
        run.checkpoints.poll(agreed.is_saving)
        result = train_step(run, batch, agreed, number)
        record(run, Progress(number + 1), result, clock, agreed)
        return result

    return step


KINDS = {
    "bare": bare,
    "distrain": distrain,
    "distrain_compiled": distrain_compiled,
    "distrain_marked": distrain_marked,
    "bare_qwen3": bare_qwen3,
    "distrain_qwen3": distrain_qwen3,
}


def serve(step: Loop, steps: int, folder: Path) -> None:
    """Make rounds of ``steps`` steps until told to stop."""
    rounds = Rounds(folder)
    while rounds.begin():
        for _ in range(steps):
            step()
        rounds.end()


def main() -> None:
    """Be one process of a worker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = SIZES[arguments.size]
    step = KINDS[arguments.kind](size)
    serve(step, size.steps, arguments.folder)
    os._exit(0)  # gloo's threads would abort an ordinary end at random


if __name__ == "__main__":
    main()
