"""A model too odd to be cut evenly, its data, and a loop, for the tests of the engines."""

import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from distrain.config.layout import Layout
from distrain.config.optimizers import AdamWConfig
from distrain.config.training import ParallelismConfig
from distrain.optim.adam import adam_state
from distrain.optim.state import OptimizerState
from distrain.parallel.apply import ModelSpec, build_engine
from distrain.parallel.collectives import HostGroup
from distrain.parallel.engine import Engine, OneByOne
from distrain.parallel.ranks import Ranks

VOCAB, WIDTH, LENGTH, BATCH = 13, 6, 5, 8
IGNORE = -100


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 11)
        self.down = nn.Linear(11, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.down(F.gelu(self.up(self.norm(x))))
        return out


class Tiny(nn.Module):
    """Parameters of 7 elements, of one row, and buffers of both kinds."""

    def __init__(self, tied: bool = False):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.odd = nn.Parameter(torch.empty(7))
        self.cube = nn.Parameter(torch.empty(1, 3, 5))
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        self.register_buffer("slope", torch.linspace(0.5, 1.5, WIDTH))
        self.register_buffer("shift", torch.full((WIDTH,), 0.25), persistent=False)
        self.slope: Tensor
        self.shift: Tensor

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embedding(input_ids) * self.slope + self.shift
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x) * (self.odd.mean() + self.cube.square().mean())
        return logits


def initialize(module: nn.Module, seed: int) -> None:
    for name, parameter in module.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {seed}".encode()))
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        full = (values * 0.4 + (1.0 if parameter.ndim == 1 else 0.0)).to(parameter.dtype)
        if isinstance(parameter, DTensor):
            mesh, placements = parameter.device_mesh, parameter.placements
            parameter.copy_(distribute_tensor(full, mesh, placements, src_data_rank=None))
        else:
            parameter.copy_(full)


@dataclass(frozen=True)
class Case:
    """One way to train the tiny model."""

    strategy: str = "single"
    precision: str = "fp32"
    stage: int = 3
    replicate: int = 1
    microbatch: int = 4
    tied: bool = False
    frozen: bool = False
    seed: int = 0
    reshard: bool = True

    def __str__(self) -> str:
        zero = self.strategy == "deepspeed"
        hsdp = self.replicate > 1
        gathered = "" if self.reshard else "-kept"
        parts = [self.strategy + str(self.stage) * zero + str(self.replicate) * hsdp + gathered]
        parts += [self.precision, f"mb{self.microbatch}"]
        return "-".join(parts + ["tied"] * self.tied + ["frozen"] * self.frozen)


def optimizer_of(named: Iterable[tuple[str, nn.Parameter]]) -> OptimizerState:
    trained = [(name, p) for name, p in named if p.requires_grad]
    groups = [
        {"params": [p for _, p in trained if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for _, p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), fused=True)
    return OptimizerState("adamw", adamw, AdamWConfig.kept, adam_state)


def spec_of(case: Case) -> ModelSpec:
    def build() -> nn.Module:
        model = Tiny(case.tied)
        if case.frozen:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_("up" in name or name == "odd")
        return model

    return ModelSpec(
        build_model=build,
        initialize=lambda module: initialize(module, case.seed),
        build_optimizer=optimizer_of,
        block_classes=lambda module: (Block,),
        device=torch.device("cpu"),
        precision=case.precision,  # type: ignore[arg-type]
        parallelism=ParallelismConfig(reshard_after_forward=case.reshard),
        plain_name=lambda name: name.replace("blocks.", "layers."),
    )


def ranks_of(case: Case) -> Ranks:
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    replicate = world_size if case.strategy == "ddp" else case.replicate
    layout = Layout(
        strategy=case.strategy,  # type: ignore[arg-type]
        zero_stage=case.stage,  # type: ignore[arg-type]
        dp_replicate=replicate,
        dp_shard=world_size // replicate,
    )
    return Ranks(layout, HostGroup())


def engine_of(case: Case) -> Engine:
    return build_engine(ranks_of(case), spec_of(case))


def global_batch(step: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets; the number of targets differs from sequence to sequence."""
    generator = torch.Generator().manual_seed(1000 + step)
    ids = torch.randint(0, VOCAB, (BATCH, LENGTH), generator=generator)
    targets = (ids * 3 + 1) % VOCAB
    lengths = torch.randint(0, LENGTH + 1, (BATCH, 1), generator=generator)
    lengths[step % BATCH] = LENGTH
    return ids, targets.masked_fill(torch.arange(LENGTH) >= lengths, IGNORE)


def lr_at(step: int) -> float:
    return 1e-2 * min(1.0, (step + 1) / 4)


def train_step(
    engine: Engine,
    step: int,
    microbatch: int,
    *,
    spoil: float = 1.0,
    told: float = 0.0,
    max_grad_norm: float | None = 0.5,
) -> tuple[float, float]:
    """Make one update; returns the mean loss of the global batch and the norm.

    ``spoil`` times the gradients, and ``told`` more than the loss, is what this rank has.
    """
    assert isinstance(engine, OneByOne)
    ids, targets = global_batch(step)
    num_targets = int((targets != IGNORE).sum())
    ranks = engine.ranks
    share = BATCH // ranks.dp_size
    mine = slice(ranks.dp_rank * share, (ranks.dp_rank + 1) * share)
    parts = list(zip(ids[mine].split(microbatch), targets[mine].split(microbatch), strict=True))
    loss_sum = torch.zeros((), dtype=torch.float64)
    for number, (part_ids, part_targets) in enumerate(parts, start=1):
        with engine.accumulate(last=number == len(parts)):
            loss = summed_loss(engine, part_ids, part_targets)
            engine.backward(loss * spoil * (ranks.dp_size / num_targets))
        loss_sum += loss.detach()
    read, norm = engine.fetch((loss_sum + told).reshape(1))
    (total_loss,), (norm,) = ranks.exchange(sums=read, maxima=[norm])
    mean_loss = total_loss / num_targets
    update = engine.update(lr_at(step), max_grad_norm, mean_loss, norm)
    assert update.applied == (math.isfinite(mean_loss) and math.isfinite(update.grad_norm))
    return mean_loss, update.grad_norm


def summed_loss(engine: Engine, ids: Tensor, targets: Tensor) -> Tensor:
    logits = engine.model(ids).flatten(0, 1)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE, reduction="sum")


def train(engine: Engine, steps: range, microbatch: int) -> list[tuple[float, float]]:
    return [train_step(engine, step, microbatch) for step in steps]


def evaluate(engine: Engine) -> float:
    """Mean loss of a fixed batch, without gradients."""
    ids, targets = global_batch(999)
    engine.model.eval()
    with torch.no_grad():
        loss = summed_loss(engine, ids, targets).item()
    engine.model.train()
    return loss / int((targets != IGNORE).sum())


def largest_difference(a: list[tuple[float, float]], b: list[tuple[float, float]]) -> float:
    assert len(a) == len(b)
    pairs = zip(a, b, strict=True)
    return max(max(math.fabs(x[0] - y[0]), math.fabs(x[1] - y[1])) for x, y in pairs)
