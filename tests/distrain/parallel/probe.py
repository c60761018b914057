"""Put one engine through all that the loop, a fault and a restart ask of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from distrain.optim.state import ScalarState
from distrain.parallel.engine import Engine
from distrain.parallel.global_tensor import State, gather_full
from tests.distrain.parallel.tiny_model import Case, engine_of, evaluate, train, train_step
from tests.ranks import run_ranks

STEPS = {"fp64": 40, "fp32": 20, "bf16": 8}
RESUMED = 5


@dataclass(frozen=True)
class Outcome:
    """What one engine did.

    Args:
        losses: Mean loss and gradient norm of each step.
        evaluation: Loss without gradients after them.
        final: Whole parameters, buffers and moments after them.
        scalars: The optimizer's scalars after them.
        bad_norm: Norm of the next step, in which one rank's gradients are NaN and no loss is.
        bad_loss: Loss of the one after it, in which one rank's is infinite and no gradient is.
        kept: Whether no rank's state changed in each of these two.
        later: Losses and norms of the two steps after them.
        resumed: Losses and norms of the last steps, made again by an engine of other initial
            values that took over the state before them.
        resumed_final: Its state at the end.
    """

    losses: list[tuple[float, float]]
    evaluation: float
    final: dict[str, Tensor]
    scalars: ScalarState
    bad_norm: float
    bad_loss: float
    kept: tuple[bool, bool]
    later: list[tuple[float, float]]
    resumed: list[tuple[float, float]]
    resumed_final: dict[str, Tensor]


def examine(case: Case) -> Outcome:
    """Probe one engine. Collective."""
    count = STEPS[case.precision]
    saved_at = count - RESUMED
    engine = engine_of(case)
    losses = train(engine, range(saved_at), case.microbatch)
    saved, saved_scalars = gather_full(engine.state()), engine.optimizer_scalars()
    losses += train(engine, range(saved_at, count), case.microbatch)
    final, scalars = gather_full(engine.state()), engine.optimizer_scalars()
    evaluation = evaluate(engine)
    before = copy_of(engine.state())
    is_last = engine.ranks.dp_rank == engine.ranks.dp_size - 1
    spoil, told = (float("nan"), float("inf")) if is_last else (1.0, 0.0)
    loss, bad_norm = train_step(engine, count, case.microbatch, spoil=spoil)
    assert math.isfinite(loss)
    kept_by_norm = is_as_before(engine, before, scalars)
    bad_loss, _ = train_step(engine, count + 1, case.microbatch, told=told)
    kept_by_loss = is_as_before(engine, before, scalars)
    later = train(engine, range(count + 2, count + 4), case.microbatch)
    engine.close()
    twin = engine_of(replace(case, seed=1))
    evaluate(twin)  # leaves parameters gathered, which must not outlive the load
    take_over(twin, saved, saved_scalars)
    resumed = train(twin, range(saved_at, count), case.microbatch)
    resumed_final = gather_full(twin.state())
    twin.close()
    return Outcome(
        losses,
        evaluation,
        final,
        scalars,
        bad_norm,
        bad_loss,
        (kept_by_norm, kept_by_loss),
        later,
        resumed,
        resumed_final,
    )


def take_over(engine: Engine, saved: dict[str, Tensor], scalars: ScalarState | None) -> None:
    """Write whole tensors into an engine, as loading a checkpoint does."""
    for name, entry in engine.state(optimizer=scalars is not None).items():
        for box in entry.boxes:
            place = tuple(slice(o, o + n) for o, n in zip(box.offsets, box.sizes, strict=True))
            box.tensor.copy_(saved[name][place])
    engine.loaded(scalars)


def copy_of(state: State) -> State:
    return {
        name: entry.like([box.tensor.clone() for box in entry.boxes])
        for name, entry in state.items()
    }


def same_boxes(a: State, b: State) -> bool:
    return list(a) == list(b) and all(
        torch.equal(x.tensor, y.tensor)
        for name in a
        for x, y in zip(a[name].boxes, b[name].boxes, strict=True)
    )


def is_as_before(engine: Engine, before: State, scalars: ScalarState) -> bool:
    """Tell whether parameters, buffers and the optimizer's state are those of ``before``."""
    same = same_boxes(before, engine.state()) and engine.optimizer_scalars() == scalars
    return everywhere(same)


def everywhere(flag: bool) -> bool:
    if not dist.is_initialized():
        return flag
    tensor = torch.tensor(float(flag))
    dist.all_reduce(tensor, op=dist.ReduceOp.MIN)
    return bool(tensor)


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def largest_gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert list(a) == list(b)
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def examine_on_ranks(
    folder: Path, world_size: int, cases: Sequence[Case]
) -> dict[tuple[int, Case], Outcome]:
    """Probe engines over ``world_size`` ranks; (world size, case) -> what happened."""
    run_ranks(folder, world_size, examine_body, list(cases), folder)
    outcomes = torch.load(folder / "outcomes.pt", weights_only=False)
    return {(world_size, case): outcome for case, outcome in zip(cases, outcomes, strict=True)}


def examine_body(cases: list[Case], folder: Path) -> None:
    if any(case.strategy == "deepspeed" for case in cases):
        # The tiny model's parameters are all smaller than what is worth cutting.
        import distrain.parallel.engines.deepspeed as engine

        engine.PERSISTENT_NUMEL = 10
    outcomes = [examine(case) for case in cases]
    if dist.get_rank() == 0:
        torch.save(outcomes, folder / "outcomes.pt")


@lru_cache
def alone(case: Case) -> Outcome:
    """What one unwrapped process does in the same situation, without a cut into microbatches."""
    return examine(Case(precision=case.precision, tied=case.tied, frozen=case.frozen, microbatch=8))
