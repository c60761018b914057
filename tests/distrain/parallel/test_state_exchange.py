"""A state saved under one engine and number of ranks is loaded under any other, bit by bit."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from distrain.errors import CheckpointError
from distrain.optim.state import ScalarState
from distrain.parallel.global_tensor import gather_full
from tests.distrain.parallel.probe import (
    largest_gap,
    same_bits,
    take_over,
)
from tests.distrain.parallel.tiny_model import (
    Case,
    engine_of,
    evaluate,
    largest_difference,
    train,
)
from tests.ranks import run_ranks

ENGINES = {
    2: [
        *(Case("deepspeed", stage=stage, frozen=True, seed=3) for stage in (1, 2, 3)),
        *(Case("deepspeed", stage=stage, seed=3) for stage in (1, 2, 3)),
    ],
    4: [Case("fsdp", microbatch=2), Case("fsdp", microbatch=2, frozen=True)],
}


def keep_zero3_from_gathering_everything() -> None:
    import distrain.parallel.engines.deepspeed as engine

    engine.PERSISTENT_NUMEL = 10


def save_under_fsdp(path: Path) -> None:
    for case in ENGINES[4]:
        engine = engine_of(case)
        train(engine, range(6), case.microbatch)
        saved, steps = gather_full(engine.state()), engine.optimizer_scalars()
        after = train(engine, range(6, 12), case.microbatch)
        if dist.get_rank() == 0:
            torch.save((saved, steps, after), path / f"{case.frozen}.pt")


def move_to_zero_and_save(path: Path, evaluations: dict[bool, float]) -> None:
    keep_zero3_from_gathering_everything()
    for case in ENGINES[2]:
        saved, steps, after = torch.load(path / f"{case.frozen}.pt", weights_only=False)
        engine = engine_of(case)
        evaluate(engine)  # leaves parameters gathered, which must not outlive the load
        take_over(engine, saved, steps)
        assert same_bits(gather_full(engine.state()), saved), case
        assert engine.optimizer_scalars() == steps, case
        assert evaluate(engine) == pytest.approx(evaluations[case.frozen], abs=1e-5), case
        assert largest_difference(train(engine, range(6, 12), case.microbatch), after) < 1e-5, case
        result = gather_full(engine.state()), engine.optimizer_scalars()
        if dist.get_rank() == 0:
            torch.save(result, path / f"{case.frozen}-{case.stage}.pt")
        engine.close()
    refuse_steps_that_differ()


def refuse_steps_that_differ() -> None:
    for stage in (1, 3):
        engine = engine_of(Case("deepspeed", stage=stage))
        names = engine.optimizer_scalars().scalars["step"]
        steps = dict.fromkeys(names, 5) | {"layers.1.up.weight": 4}
        with pytest.raises(CheckpointError, match=r"5 for \S+ and 4 for layers\.1\.up\.weight"):
            engine.loaded(ScalarState("adamw", {"step": steps}))
        engine.close()


def move_back_to_fsdp(path: Path, evaluations: dict[tuple[bool, int], float]) -> None:
    for case in ENGINES[4]:
        for stage in (1, 2, 3):
            saved, steps = torch.load(path / f"{case.frozen}-{stage}.pt", weights_only=False)
            engine = engine_of(Case("fsdp", frozen=case.frozen, seed=5, replicate=1 + stage % 2))
            take_over(engine, saved, steps)
            assert same_bits(gather_full(engine.state()), saved)
            assert engine.optimizer_scalars() == steps
            # The first forward pass of this engine: FSDP2 lays its shards out anew in it.
            assert evaluate(engine) == pytest.approx(evaluations[case.frozen, stage], abs=1e-5)
            assert same_bits(gather_full(engine.state()), saved)


def test_fsdp_on_four_ranks_and_zero_on_two_exchange_states_bit_by_bit(tmp_path: Path):
    run_ranks(tmp_path / "save", 4, save_under_fsdp, tmp_path)
    first = {frozen: evaluate_alone(tmp_path / f"{frozen}.pt", frozen) for frozen in (False, True)}
    run_ranks(tmp_path / "zero", 2, move_to_zero_and_save, tmp_path, first)
    second = {
        (frozen, stage): evaluate_alone(tmp_path / f"{frozen}-{stage}.pt", frozen)
        for frozen in (False, True)
        for stage in (1, 2, 3)
    }
    run_ranks(tmp_path / "back", 4, move_back_to_fsdp, tmp_path, second)


def evaluate_alone(path: Path, frozen: bool) -> float:
    saved, steps, *_ = torch.load(path, weights_only=False)
    engine = engine_of(Case(frozen=frozen))
    take_over(engine, saved, steps)
    return evaluate(engine)


def test_parameters_alone_can_be_loaded_and_leave_moments_new():
    engine, other = engine_of(Case()), engine_of(Case(seed=1))
    train(engine, range(5), 4)
    weights = gather_full(engine.state(optimizer=False))

    assert not [name for name in weights if name.startswith("exp_avg")]
    take_over(other, weights, None)

    assert largest_gap(gather_full(other.state(optimizer=False)), weights) == 0
    assert set(other.optimizer_scalars().scalars["step"].values()) == {0}
    assert float(gather_full(other.state())["exp_avg/odd"].abs().max()) == 0
