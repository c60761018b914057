"""Memory and CPU time of a loss over a large vocabulary, as shipped and with whole logits.

``python -m benchmarks.loss [step] [--rounds 5]``: V 65,536, T 1024, microbatch 4, hidden size 256,
fp32, one thread. The loss alone (forward and backward), then a whole step of the own Llama with 4
layers. Each variant runs in a process of its own, once a round, in an order that turns with the
round; the plain one without our allocator settings, as a loop that somebody writes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Literal

import torch

from benchmarks.measuring import machine_line, table
from distrain.config.layout import Layout
from distrain.config.optimizers import AdamWConfig
from distrain.config.recipe import PretrainStage
from distrain.config.training import LossConfig
from distrain.models.output_layer import OutputLayer
from distrain.monitor.memory import peak_memory_gib
from distrain.parallel.allocator import keep_freed_memory
from distrain.parallel.apply import build_engine
from distrain.parallel.collectives import HostGroup
from distrain.parallel.engine import OneByOne
from distrain.parallel.ranks import Ranks
from distrain.stages.pretrain import model_spec

VOCAB_SIZE, LENGTH, ROWS, WIDTH = 65536, 1024, 4, 256
CPU = torch.device("cpu")
VARIANTS: dict[str, tuple[Literal["auto"] | None, Literal["auto", "system"]]] = {
    # Name -> (positions of a chunk, allocator).
    "whole logits": (None, "system"),
    "as shipped": ("auto", "auto"),
}
REPEATS = 2
"""The first one warms; the last one is timed."""


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Make random inputs and targets, shape (4, 1024)."""
    dice = torch.Generator().manual_seed(1)
    ids = torch.randint(VOCAB_SIZE, (ROWS, LENGTH + 1), generator=dice)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def loss_alone(loss: LossConfig) -> float:
    """Run output layer and loss, forward and backward; CPU seconds of the last time."""
    layer = OutputLayer(WIDTH, VOCAB_SIZE)
    layer.loss = loss
    hidden = torch.randn(ROWS, LENGTH, WIDTH, requires_grad=True)
    _, targets = batch()
    for _ in range(REPEATS):
        start = time.process_time()
        layer(hidden, targets, (ROWS,)).sum().backward()
        hidden.grad = None
        layer.zero_grad()
        seconds = time.process_time() - start
    return seconds


def whole_step(loss: LossConfig) -> float:
    """Make updates of a small Llama by the engine of one process; as ``loss_alone``."""
    settings = {
        "model": {"hidden_size": WIDTH, "intermediate_size": 768, "num_hidden_layers": 4},
        "training": {"max_steps": 1, "loss": loss.model_dump()},
    }
    stage = PretrainStage.model_validate({"kind": "pretrain", "needs": "prepare"} | settings)
    layout = Layout(strategy="single", zero_stage=3, dp_replicate=1, dp_shard=1)
    engine = build_engine(Ranks(layout, HostGroup()), model_spec(stage, VOCAB_SIZE, 1, CPU, "fp32"))
    assert isinstance(engine, OneByOne)
    inputs, targets = batch()
    for _ in range(REPEATS):
        start = time.process_time()
        with engine.accumulate(last=True):
            losses = engine.model(inputs, target_ids=targets, rows=(ROWS,))
            engine.backward(losses.sum() / targets.numel())
        (total,), norm = engine.fetch(losses.detach().double())
        engine.update(1e-3, AdamWConfig().max_grad_norm, total, norm)
        seconds = time.process_time() - start
    return seconds


SUBJECTS = {"loss alone": loss_alone, "step": whole_step}


def measure(subject: str, variant: str) -> None:
    """Be one process: print what it took."""
    torch.set_num_threads(1)
    chunk_tokens, allocator = VARIANTS[variant]
    keep_freed_memory(allocator, CPU)
    seconds = SUBJECTS[subject](LossConfig(chunk_tokens=chunk_tokens))
    sys.stdout.write(json.dumps({"cpu_s": seconds, "peak_gib": peak_memory_gib(CPU)}) + "\n")


def run(subject: str, variant: str) -> dict[str, float]:
    """Start one process, and read what it prints."""
    command = [sys.executable, "-m", "benchmarks.loss", "--measure", subject, variant]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    sys.stderr.write(f"{subject}, {variant}: {found}\n")
    return found


def main() -> None:
    """Run all variants in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subjects", nargs="*", default=list(SUBJECTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", nargs=2)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
        return
    rows, names = [], list(VARIANTS)
    for subject in arguments.subjects:
        found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for number in range(arguments.rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                found[name].append(run(subject, name))
        plain = [result["cpu_s"] for result in found[names[0]]]
        for name in names:
            ratios = sorted(r["cpu_s"] / p for r, p in zip(found[name], plain, strict=True))
            rows.append(
                [
                    f"{subject}, {name}",
                    f"{max(result['peak_gib'] for result in found[name]):.2f}",
                    f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})",
                    f"{statistics.median(r['cpu_s'] for r in found[name]):.1f}",
                    f"{os.getloadavg()[0]:.1f}",
                ]
            )
    head = ("case", "peak RSS, GiB", "CPU time / whole logits (range)", "CPU s", "load")
    sys.stdout.write(f"{machine_line()}\n\n{table(head, rows)}\n")


if __name__ == "__main__":
    main()
