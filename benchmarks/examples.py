"""CPU time per trained token of fine-tuning with LoRA: which positions are computed, and packing.

``python -m benchmarks.examples [--rounds 5]``: own Llama of 4 layers, hidden size 256, V 4,096
(tied: the output layer is a quarter of the matrices, as in SmolLM2 135M), T 512, microbatch 4,
fp32, one thread; made-up examples of 20 to 500 tokens, most of them short, of which some 40 % are
trained. Forward and backward of 8 rows, interleaved.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from benchmarks.measuring import ROUNDS, interleaved, machine_line, median_ratio, table
from distrain.config.lora import LoraConfig
from distrain.config.models import LlamaConfig
from distrain.config.tasks import CAUSAL_LM
from distrain.config.training import LossConfig
from distrain.data.chats.example import EncodedExample
from distrain.data.samples.datasets import gather
from distrain.data.samples.examples import example_dataset
from distrain.data.samples.loader import Microbatch
from distrain.finetune.lora import initialize_lora, inject_lora
from distrain.models import build_model
from distrain.tasks import TASKS

VOCAB_SIZE, LENGTH, ROWS, MICRO_BATCH = 4096, 512, 8, 4
VARIANTS = {
    "all positions, one example a row": ("none", False),
    "needed positions, one example a row": ("none", True),
    "all positions, packed": ("best_fit", False),
    "needed positions, packed": ("best_fit", True),
}


def made(count: int = 400) -> list[EncodedExample]:
    """Make examples of which the last two fifths are trained."""
    dice = np.random.default_rng(1)
    found = []
    for number in range(count):
        size = int(min(500, 20 + dice.exponential(120)))
        places = np.arange(size)
        ids = dice.integers(5, VOCAB_SIZE, size).astype(np.int32)
        found.append(EncodedExample(f"made:{number}", ids, places >= 0.6 * size, places > 0))
    return found


def microbatches(packing: str, *, needed_only: bool) -> list[Microbatch]:
    """Cut the first rows into microbatches."""
    dataset = example_dataset(made(), LENGTH, pad_id=0, packing=packing)
    dataset.needed_only = needed_only
    rows = gather(dataset, np.arange(ROWS))
    return [
        Microbatch.from_rows(rows, start, start + MICRO_BATCH)
        for start in range(0, ROWS, MICRO_BATCH)
    ]


def build() -> torch.nn.Module:
    """Make the adapted model; only its adapters get gradients."""
    config = LlamaConfig(
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=8,
        intermediate_size=688,
        tie_word_embeddings=True,
    )
    model = inject_lora(build_model(config, VOCAB_SIZE, LossConfig()), LoraConfig(), 1)
    initialize_lora(model, 1)
    return model.train()


def step(model: torch.nn.Module, batch: list[Microbatch]) -> None:
    """Run forward and backward over all microbatches."""
    for microbatch in batch:
        TASKS[CAUSAL_LM].measure(model, microbatch).trained.sum().backward()


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    model = build()
    batches = {
        name: microbatches(packing, needed_only=needed)
        for name, (packing, needed) in VARIANTS.items()
    }
    bodies: dict[str, Callable[[], None]] = {
        name: partial(step, model, batch) for name, batch in batches.items()
    }
    for body in bodies.values():
        body()
    samples = interleaved(bodies, rounds)
    targets = {name: sum(part.num_targets for part in batch) for name, batch in batches.items()}
    each = {name: [s.cpu_s / targets[name] for s in found] for name, found in samples.items()}
    first = each[next(iter(each))]
    rows = []
    for name, batch in batches.items():
        positions = sum(part.input_ids.numel() for part in batch)
        rows.append(
            [
                name,
                f"{positions:,}",
                f"{targets[name]:,}",
                f"{1e3 * sorted(each[name])[rounds // 2]:.2f}",
                f"{median_ratio(each[name], first):.2f}",
            ]
        )
    head = ["", "positions", "targets", "CPU ms per trained token", "ratio"]
    sys.stdout.write(machine_line() + "\n\n" + table(head, rows) + "\n")


if __name__ == "__main__":
    main()
