"""Attention by documents over attention with a dense mask: CPU time, forward and backward.

    python -m benchmarks.attention [--mean 512 ...] [--part kernel ...]

One thread, float32, rows of 2048 tokens cut into documents of exponential lengths. The kernel
alone (2 rows, 8 heads of 64), a whole step of our Llama (2 rows, width 256, 4 layers), and the peak
memory of the kernel in a process of its own, over that with only its inputs.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measuring import interleaved, machine_line, median_ratio, table
from distrain.config.models import LlamaConfig
from distrain.models import build_model, llama
from distrain.models.attention import (
    PLAIN,
    AttentionRule,
    DocumentLayout,
    attend,
    plan_attention,
)
from distrain.models.init import initialize

ROWS, LENGTH, HEADS, HEAD_SIZE = 2, 2048, 8, 64
VOCAB_SIZE = 4096
MEANS = (512, 128, 32)
LAYOUTS = 4
"""Drawn for each mean, and all measured in each round: a few long documents decide one's cost."""
SIZES = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 768,
}


def draw_layout(mean: int, seed: int) -> DocumentLayout:
    """Cut rows into documents of exponential lengths."""
    dice = torch.Generator().manual_seed(seed)
    lengths: list[int] = []
    for _ in range(ROWS):
        left = LENGTH
        while left:
            drawn = torch.empty(1).exponential_(1 / mean, generator=dice)
            lengths.append(min(left, 1 + int(drawn)))
            left -= lengths[-1]
    positions = torch.cat([torch.arange(length) for length in lengths]).view(ROWS, LENGTH)
    ends = torch.tensor([0, *lengths]).cumsum(0).int()
    return DocumentLayout(ends, positions, tuple(lengths))


def dense_mask(documents: DocumentLayout) -> Tensor:
    """Return which keys each query sees, (B, 1, T, T): what a plan was before."""
    lengths = torch.tensor(documents.lengths)
    ids = torch.arange(len(lengths)).repeat_interleave(lengths).view(ROWS, LENGTH)
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    return ((ids.unsqueeze(2) == ids.unsqueeze(1)) & causal).unsqueeze(1)


def dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, rule: AttentionRule = PLAIN) -> Tensor:
    """Attend by a mask of all pairs."""
    assert rule == PLAIN
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


PLANS: dict[str, Callable[[DocumentLayout], object]] = {
    "documents": plan_attention,
    "dense": dense_mask,
}
ATTENDS: dict[str, Callable[..., Tensor]] = {"documents": attend, "dense": dense}


def draw_heads() -> list[Tensor]:
    """Draw queries, keys and values as projections leave them."""
    drawn = (torch.randn(ROWS, LENGTH, HEADS, HEAD_SIZE) for _ in range(3))
    return [x.transpose(1, 2).requires_grad_() for x in drawn]


def run_kernel(way: str, heads: list[Tensor], layouts: list[DocumentLayout]) -> None:
    """Go forward and backward through one layer's attention; the plan is part of it."""
    for documents in layouts:
        output = ATTENDS[way](*heads, PLANS[way](documents))
        torch.autograd.grad(output.transpose(1, 2).flatten(-2).sum(), heads)


def step_of(way: str, layouts: list[DocumentLayout]) -> Callable[[], None]:
    """Make a model and its optimizer, and return steps over the layouts."""
    model = build_model(LlamaConfig.model_validate(SIZES), VOCAB_SIZE)
    initialize(model, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(VOCAB_SIZE, (ROWS, LENGTH + 1))

    def run() -> None:
        with (
            patch.object(llama, "plan_attention", PLANS[way]),
            patch.object(llama, "attend", ATTENDS[way]),
        ):
            for documents in layouts:
                model(ids[:, :-1], target_ids=ids[:, 1:], documents=documents).mean().backward()
                optimizer.step()
                optimizer.zero_grad()

    return run


def measure(bodies: Mapping[str, Callable[[], None]], layouts: int) -> list[str]:
    """Measure CPU time over the dense mask's, and that itself in seconds a layout."""
    for body in bodies.values():
        body()  # warm
    samples = interleaved(dict(bodies))
    cpu = {name: [sample.cpu_s for sample in values] for name, values in samples.items()}
    seconds = statistics.median(cpu["dense"]) / layouts
    return [f"{median_ratio(cpu['documents'], cpu['dense']):.3f}", f"{seconds:.3f}"]


def kernel_figures(mean: int) -> list[str]:
    """Measure attention alone."""
    layouts, heads = [draw_layout(mean, seed) for seed in range(LAYOUTS)], draw_heads()
    return measure({way: partial(run_kernel, way, heads, layouts) for way in PLANS}, LAYOUTS)


def step_figures(mean: int) -> list[str]:
    """Measure whole steps."""
    layouts = [draw_layout(mean, seed) for seed in range(LAYOUTS)]
    return measure({way: step_of(way, layouts) for way in PLANS}, LAYOUTS)


def print_peak(way: str, mean: int) -> None:
    """Print by how much a layer raises this process's peak memory, in MiB."""
    heads = draw_heads()
    layouts = [draw_layout(mean, seed) for seed in range(LAYOUTS)]
    before = peak_kib()
    run_kernel(way, heads, layouts)
    sys.stdout.write(f"{(peak_kib() - before) / 1024:.0f}\n")


def peak_kib() -> int:
    """Return the most memory that this program held; ``getrusage`` counts its parent's too."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def peak_figures(mean: int) -> list[str]:
    """Measure in processes of their own, whose peak nothing else has raised."""
    command = [sys.executable, "-m", "benchmarks.attention", "--mean", str(mean), "--peak"]
    runs = (
        subprocess.run([*command, way], capture_output=True, text=True, check=True) for way in PLANS
    )
    return [run.stdout.strip() for run in runs]


PARTS: dict[str, tuple[Callable[[int], list[str]], tuple[str, str]]] = {
    "kernel": (kernel_figures, ("over dense", "dense, CPU-s")),
    "step": (step_figures, ("over dense", "dense, CPU-s")),
    "peak": (peak_figures, ("documents, MiB", "dense, MiB")),
}


def main() -> None:
    """Print tables, a row for each mean length."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mean", type=int, nargs="+", default=MEANS)
    parser.add_argument("--part", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--peak", choices=PLANS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        print_peak(arguments.peak, arguments.mean[0])
        return
    sys.stdout.write(machine_line() + "\n")
    for part in arguments.part:
        figures, head = PARTS[part]
        rows = [[str(mean), *figures(mean), f"{os.getloadavg()[0]:.1f}"] for mean in arguments.mean]
        sys.stdout.write("\n" + table([f"{part}, mean length", *head, "load"], rows) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
