"""Memory of weights coming in and going out: peak of a rank beside its shard and one parameter.

`python -m benchmarks.weights` prints a table. Each case runs in fresh processes on 1 or 2 ranks
(gloo, CPU). Measured is anonymous memory (RssAnon: pages that are this process's own, no mapped
files), sampled every millisecond by a thread, over what the imports took.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measuring import machine_line, table

if TYPE_CHECKING:
    from distrain.parallel.apply import ModelSpec

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32},
    "large": {
        "hidden_size": 512,
        "num_hidden_layers": 16,
        "num_attention_heads": 8,
        "intermediate_size": 1376,
    },
}
"""The tiny one goes the same way first, so that what is imported on it is not counted."""
VOCAB_SIZES = {"tiny": 64, "large": 16000}
"""Of the large one: 67 million parameters, 268 MB; the largest, the embedding, is 33 MB."""
SAMPLE_S = 0.001
CASES = {
    "import a folder, single": 1,
    "import a folder, fsdp": 2,
    "import a folder, deepspeed": 2,
    "import a checkpoint, single": 1,
    "cut for ZeRO-3, deepspeed": 2,
    "export a checkpoint": 1,
    "export and compare": 1,
}
"""Name of a case -> ranks."""


@dataclass(frozen=True)
class Peak:
    """Bytes of one rank.

    Args:
        peak: Of anonymous memory during the case, over what it was after the imports.
        held: What was still there at its end.
        shard: Parameters that this rank holds.
        largest: The largest parameter.
        state: What the engine has to hold besides them, to train: gradients under ZeRO-3, whose
            buffer is made with the engine.
    """

    peak: int
    held: int
    shard: int
    largest: int
    state: int = 0

    @property
    def bound(self) -> int:
        """What the peak may be: the shard, its state, and two parameters."""
        return self.shard + self.state + 2 * self.largest


def rss_anon() -> int:
    """Return the anonymous memory of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = [line for line in lines if line.startswith("RssAnon:")]
    return int(line.split()[1]) * 1024


@contextmanager
def sampled() -> Iterator[list[int]]:
    """Give a list that holds the peak, in bytes, when the block has ended."""
    peak, ended = [rss_anon()], threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLE_S):
            peak[0] = max(peak[0], rss_anon())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()
        peak[0] = max(peak[0], rss_anon())


def make_inputs(folder: Path, size: str) -> None:
    """Write a model as a Hugging Face folder and as a checkpoint."""
    from distrain.checkpoint.dcp import save_entries
    from distrain.config.models import LlamaConfig
    from distrain.models import build_model
    from distrain.models.huggingface import save_huggingface
    from distrain.models.init import initialize
    from distrain.models.origin import SpecialTokens
    from distrain.parallel.collectives import HostGroup
    from distrain.parallel.global_tensor import whole

    config, vocab_size = LlamaConfig(**SIZES[size]), VOCAB_SIZES[size]
    model = build_model(config, vocab_size)
    initialize(model, seed=0)
    folder.mkdir()
    save_huggingface(model.state_dict(), config, vocab_size, folder / "model", SpecialTokens())
    state = {f"model/{name}": whole(p, writes=True) for name, p in model.named_parameters()}
    save_entries(folder / "checkpoint", state, HostGroup())


def measure(case: str, folder: Path) -> list[Peak]:
    """Run a case in processes of its own; returns what each rank measured."""
    with tempfile.TemporaryDirectory() as scratch:
        ranks = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "benchmarks.weights", "--folder", str(folder)),
                    *("--case", case, "--rank", str(rank), "--scratch", scratch),
                ],
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(CASES[case])
        ]
        for rank in ranks:
            _, errors = rank.communicate(timeout=900)
            if rank.returncode:
                raise RuntimeError(f"{case} failed:\n{errors[-2000:]}")
        found = [Path(scratch, f"{rank}.json") for rank in range(len(ranks))]
        return [Peak(**json.loads(path.read_text())) for path in found]


def run_case(case: str, rank: int, folder: Path, scratch: Path) -> None:
    """Be one rank of a case, and write down what it took."""
    import torch
    import torch.distributed as dist

    from distrain.models.weights.freed_memory import release_freed_memory
    from distrain.parallel.allocator import return_large_buffers

    return_large_buffers("auto", torch.device("cpu"))  # as a stage begins
    what, _, strategy = case.partition(", ")
    body = CASE_BODIES[what](strategy, folder, scratch)
    if CASES[case] > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{scratch}/store", rank=rank, world_size=CASES[case]
        )
    body("tiny")
    release_freed_memory()
    before = rss_anon()
    with sampled() as peak:
        shard, largest, kept = body("large")
    held = rss_anon() - before
    del kept
    figures = {"peak": peak[0] - before, "held": held, "shard": shard, "largest": largest}
    if what.startswith("import") and strategy == "deepspeed":
        figures["state"] = shard  # fp32 gradients
    (scratch / f"{rank}.json").write_text(json.dumps(figures))
    if CASES[case] > 1:
        dist.barrier()
        os._exit(0)  # gloo now and then does not end


Body = Callable[[str], tuple[int, int, object]]
"""Takes the size of the model; returns bytes of shard and largest parameter, and what is in use."""


def _importing(source: str, strategy: str, folder: Path, scratch: Path) -> Body:
    import torch
    import torch.distributed as dist

    from distrain.config.layout import Layout
    from distrain.config.models import LlamaConfig
    from distrain.config.optimizers import OPTIMIZER_SECTIONS
    from distrain.models import build_model
    from distrain.models.huggingface import open_huggingface
    from distrain.models.init import initialize
    from distrain.optim import build_optimizer
    from distrain.parallel.apply import ModelSpec, build_engine
    from distrain.parallel.collectives import HostGroup
    from distrain.parallel.ranks import Ranks
    from distrain.stages.base_model import BaseModel

    del scratch
    if strategy == "deepspeed":
        os.environ["DS_ACCELERATOR"] = "cpu"
        import deepspeed  # noqa: F401  # an import of its own: not what is measured
    if strategy != "single":
        import accelerate  # noqa: F401
        import torch.distributed.fsdp
    # Without state of its own, so that a rank holds parameters and nothing else.
    plain = OPTIMIZER_SECTIONS["sgd"].model_validate({"name": "sgd", "momentum": 0.0})

    def body(size: str) -> tuple[int, int, object]:
        config, vocab_size = LlamaConfig(**SIZES[size]), VOCAB_SIZES[size]
        spec = ModelSpec(
            build_model=partial(build_model, config, vocab_size),
            initialize=partial(initialize, seed=1),
            build_optimizer=partial(build_optimizer, config=plain),
            block_classes=attrgetter("block_classes"),
            device=torch.device("cpu"),
        )
        if source == "cut":
            return _cut(spec)
        world = dist.get_world_size() if dist.is_initialized() else 1
        layout = Layout(
            strategy=strategy,  # type: ignore[arg-type]  # of CASES
            zero_stage=3,
            dp_replicate=1,
            dp_shard=world,
        )
        engine = build_engine(Ranks(layout, HostGroup()), spec)
        base = BaseModel(config, vocab_size, folder, checkpoint=folder / size / "checkpoint")
        if source == "folder":
            weights = open_huggingface(folder / size / "model").weights
            base = BaseModel(config, vocab_size, folder, weights=weights)
        base.load_into(engine)
        state = engine.state(optimizer=False).values()
        shard = sum(box.tensor.nbytes for entry in state for box in entry.boxes)
        largest = max(math.prod(entry.shape) * entry.dtype.itemsize for entry in state)
        return shard, largest, engine

    return body


def _cut(spec: "ModelSpec") -> tuple[int, int, object]:
    """Do what comes before DeepSpeed takes a model that is whole on no rank."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    from distrain.parallel.engines.deepspeed import _import_deepspeed
    from distrain.parallel.engines.zero_construction import build_sharded, partition_parameters

    deepspeed = _import_deepspeed(torch.device("cpu"))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    module, values = build_sharded(spec, mesh)
    sizes = [value.numel() * value.element_size() for value in values.values()]
    settings = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}
    partition_parameters(deepspeed, module, values, settings)
    return sum(sizes) // mesh.size(), max(sizes), module


def _exporting(compare: bool, strategy: str, folder: Path, scratch: Path) -> Body:
    import transformers  # noqa: F401  # only so that both cases begin alike

    from distrain.checkpoint.weights import CheckpointWeights
    from distrain.config.models import LlamaConfig
    from distrain.models.huggingface import write_huggingface
    from distrain.models.origin import SpecialTokens
    from distrain.stages.reload import compare_reloaded

    del strategy

    def body(size: str) -> tuple[int, int, object]:
        config, vocab_size = LlamaConfig(**SIZES[size]), VOCAB_SIZES[size]
        weights = CheckpointWeights(folder / size / "checkpoint")
        write_huggingface(weights, config, vocab_size, scratch, SpecialTokens())
        if compare and size == "large":
            compare_reloaded(scratch, weights, config, vocab_size)
        sizes = [math.prod(f.shape) * f.dtype.itemsize for f in weights.forms.values()]
        # Of an export nothing stays; a comparison holds the model once.
        return (sum(sizes) if compare else 0), max(sizes), None

    return body


CASE_BODIES: dict[str, Callable[[str, Path, Path], Body]] = {
    "import a folder": partial(_importing, "folder"),
    "import a checkpoint": partial(_importing, "checkpoint"),
    "cut for ZeRO-3": partial(_importing, "cut"),
    "export a checkpoint": partial(_exporting, False),
    "export and compare": partial(_exporting, True),
}


def main() -> None:
    """Print the table, or be one rank of a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("case", "folder", "scratch"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--rank", type=int)
    arguments = parser.parse_args()
    if arguments.case is not None:
        run_case(arguments.case, arguments.rank, Path(arguments.folder), Path(arguments.scratch))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            make_inputs(Path(folder, size), size)
        for case, ranks in CASES.items():
            started = time.monotonic()
            worst = max(measure(case, Path(folder)), key=lambda found: found.peak / found.bound)
            sizes = (worst.shard, worst.state, worst.held, worst.peak, worst.bound)
            seconds = f"{time.monotonic() - started:.0f} s"
            rows.append([case, str(ranks), *(f"{size / 1e6:.0f}" for size in sizes), seconds])
    head = (
        "case",
        "ranks",
        "shard MB",
        "gradients MB",
        "held after MB",
        "peak MB",
        "bound MB",
        "wall",
    )
    sys.stdout.write(f"{machine_line()}\n\n{table(head, rows)}\n")


if __name__ == "__main__":
    main()
