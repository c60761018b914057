"""Every engine does what one unwrapped process does, whatever the ranks and the microbatches."""

import math
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from distrain.parallel.global_tensor import gather_full
from tests.distrain.parallel.probe import (
    RESUMED,
    Outcome,
    alone,
    examine,
    examine_on_ranks,
    largest_gap,
    same_bits,
)
from tests.distrain.parallel.tiny_model import Case, engine_of, largest_difference

QUICK = {
    2: [
        Case("ddp", "fp64", microbatch=1),
        Case("fsdp", "fp64", microbatch=2),
        Case("fsdp", frozen=True),
        Case("fsdp", tied=True, reshard=False, microbatch=1),
        Case("fsdp", "bf16"),
        *(Case("deepspeed", stage=stage, frozen=True, microbatch=2) for stage in (1, 2, 3)),
        Case("deepspeed", stage=3, tied=True),
    ],
}
REST = {
    1: [Case("ddp", "fp64"), Case("fsdp", "fp64", microbatch=1)],
    2: [
        Case("ddp", frozen=True),
        Case("ddp", tied=True),
        Case("ddp", "bf16"),
        *(Case("deepspeed", stage=stage, tied=True) for stage in (1, 2)),
        *(Case("deepspeed", "bf16", stage=stage) for stage in (1, 3)),
    ],
    4: [
        Case("ddp", "fp64", microbatch=2),
        Case("fsdp", "fp64", microbatch=1),
        Case("ddp", microbatch=1),
        Case("fsdp", microbatch=2),
        Case("fsdp", replicate=2, microbatch=1),
        *(Case("deepspeed", stage=stage, microbatch=1) for stage in (1, 2, 3)),
    ],
}
TOLERANCE = {"fp64": 1e-9, "fp32": 1e-5}


def runs(*precisions: str) -> list[ParameterSet]:
    """List the cases of these precisions; most of them belong to the whole matrix."""
    return [
        pytest.param(world_size, case, id=f"{world_size}-{case}", marks=marks)
        for matrix, marks in ((QUICK, ()), (REST, pytest.mark.seams))
        for world_size, cases in matrix.items()
        for case in cases
        if case.precision in precisions
    ]


EXACT_RUNS, BF16_RUNS = runs("fp64", "fp32"), runs("bf16")
RUNS = EXACT_RUNS + BF16_RUNS


class Outcomes(dict[tuple[int, Case], Outcome]):
    """What happened in each case; a world size's cases are probed when the first is asked for."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        super().__init__()
        self.factory = factory

    def __missing__(self, key: tuple[int, Case]) -> Outcome:
        world_size, case = key
        (cases,) = (m[world_size] for m in (QUICK, REST) if case in m.get(world_size, ()))
        folder: Path = self.factory.mktemp(f"ranks-{world_size}")
        self.update(examine_on_ranks(folder, world_size, cases))
        return self[key]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    return Outcomes(tmp_path_factory)


@pytest.mark.parametrize(("world_size", "case"), EXACT_RUNS)
def test_losses_norms_and_state_equal_those_of_one_process(
    outcomes: Outcomes, world_size: int, case: Case
):
    outcome, expected = outcomes[world_size, case], alone(case)

    assert largest_difference(outcome.losses, expected.losses) < TOLERANCE[case.precision]
    assert outcome.evaluation == pytest.approx(expected.evaluation, abs=TOLERANCE[case.precision])
    assert largest_gap(outcome.final, expected.final) < TOLERANCE[case.precision]
    assert outcome.scalars == expected.scalars


@pytest.mark.parametrize(("world_size", "case"), RUNS)
def test_a_step_that_is_not_finite_on_one_rank_is_applied_on_none(
    outcomes: Outcomes, world_size: int, case: Case
):
    outcome, expected = outcomes[world_size, case], alone(case)

    assert not math.isfinite(outcome.bad_norm)
    assert outcome.bad_loss == math.inf
    assert outcome.kept == (True, True)
    if case.precision != "bf16":
        assert largest_difference(outcome.later, expected.later) < TOLERANCE[case.precision]


@pytest.mark.parametrize(("world_size", "case"), RUNS)
def test_a_resumed_engine_goes_on_bit_by_bit(outcomes: Outcomes, world_size: int, case: Case):
    outcome = outcomes[world_size, case]

    assert outcome.resumed == outcome.losses[-RESUMED:]
    assert same_bits(outcome.resumed_final, outcome.final)


@pytest.mark.parametrize("microbatch", [1, 2, 3, 4])
@pytest.mark.parametrize(("tied", "frozen"), [(False, False), (True, False), (False, True)])
def test_one_process_may_cut_the_batch_anyhow(microbatch: int, tied: bool, frozen: bool):
    case = Case(precision="fp64", microbatch=microbatch, tied=tied, frozen=frozen)
    outcome, expected = examine(case), alone(case)

    assert largest_difference(outcome.losses, expected.losses) < 1e-9
    assert outcome.kept == (True, True)
    assert outcome.resumed == outcome.losses[-RESUMED:]


@pytest.mark.parametrize(("world_size", "case"), BF16_RUNS)
def test_bf16_stays_close_to_fp32(outcomes: Outcomes, world_size: int, case: Case):
    outcome, exact = outcomes[world_size, case], alone(Case())

    pairs = list(zip(outcome.losses, exact.losses, strict=False))
    assert all(abs(loss - expected) < 0.03 for (loss, _), (expected, _) in pairs)
    assert any(loss != expected for (loss, _), (expected, _) in pairs)
    assert all(tensor.dtype.itemsize == 4 for tensor in outcome.final.values())


def test_states_name_the_same_entries_under_every_engine(outcomes: Outcomes):
    frozen = alone(Case(frozen=True)).final

    assert "model/layers.0.down.weight" in frozen
    assert "exp_avg/layers.0.down.weight" not in frozen
    assert "exp_avg_sq/odd" in frozen
    assert "buffer/slope" in frozen
    assert "buffer/shift" not in frozen
    assert "model/head.weight" not in alone(Case(tied=True)).final
    for case in QUICK[2]:
        assert list(outcomes[2, case].final) == list(alone(case).final)


def test_frozen_parameters_do_not_move(outcomes: Outcomes):
    start = gather_full(engine_of(Case(frozen=True)).state())
    for outcome in (outcomes[2, case] for case in QUICK[2] if case.frozen):
        for name in ("model/embedding.weight", "model/layers.2.down.weight"):
            assert start[name].equal(outcome.final[name])
        assert not start["model/odd"].equal(outcome.final["model/odd"])
