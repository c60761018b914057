"""CPU time of one update by each optimizer, over that of AdamW, and bytes of state a parameter.

``python -m benchmarks.optimizers``: a Llama of nano size with random gradients, in one process;
where torch has the same optimizer, its own implementation (``foreach``) takes turns with ours.
"""

import sys
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.measuring import interleaved, machine_line, median_ratio, table
from distrain.config.models import LlamaConfig
from distrain.config.optimizers import OPTIMIZER_SECTIONS
from distrain.models import build_model
from distrain.optim import build_optimizer

VOCAB_SIZE = 4096
ROUNDS, UPDATES = 9, 3
OF_TORCH: dict[str, Callable[[Iterable[Tensor]], Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW(p, foreach=True),
    "adam": lambda p: torch.optim.Adam(p, foreach=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, foreach=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, foreach=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, foreach=True),
    "adafactor": lambda p: torch.optim.Adafactor(p, foreach=True),
}


def nano() -> nn.Module:
    """Make a model with gradients."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=256, num_attention_heads=4, num_key_value_heads=2, intermediate_size=768
    )
    model = build_model(config, VOCAB_SIZE)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
        parameter.grad = torch.randn_like(parameter) * 1e-3
    return model


def updates(optimizer: Optimizer) -> Callable[[], None]:
    """Return what makes a few updates, the state being there already."""
    optimizer.step()

    def body() -> None:
        for _ in range(UPDATES):
            optimizer.step()

    return body


def state_bytes(optimizer: Optimizer) -> int:
    """Return the size of all tensors of the state."""
    states = optimizer.state.values()
    tensors = [value for state in states for value in state.values() if isinstance(value, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    bodies, sizes = dict[str, Callable[[], None]](), dict[str, float]()
    for name, section in OPTIMIZER_SECTIONS.items():
        model = nano()
        optimizer = build_optimizer(model.named_parameters(), section(name=name)).torch
        bodies[name] = updates(optimizer)
        sizes[name] = state_bytes(optimizer) / sum(p.numel() for p in model.parameters())
        if name in OF_TORCH:
            bodies[f"torch {name}"] = updates(OF_TORCH[name](nano().parameters()))
    found = {
        name: [sample.cpu_s for sample in samples]
        for name, samples in interleaved(bodies, ROUNDS).items()
    }
    rows = []
    for name, size in sizes.items():
        own = f"{median_ratio(found[name], found['adamw']):.2f}"
        torchs = found.get(f"torch {name}")
        other = "-" if torchs is None else f"{median_ratio(found[name], torchs):.2f}"
        rows.append([f"`{name}`", own, other, f"{size:.2f}"])
    head = ["optimizer", "CPU time / `adamw`", "/ torch's foreach", "state, bytes a parameter"]
    sys.stdout.write(f"{machine_line()}\n\n{table(head, rows)}\n")


if __name__ == "__main__":
    main()
