"""Any declared state is saved, cut and taken over bit by bit, and nothing less will do."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distrain.checkpoint.manager import CheckpointManager
from distrain.config.optimizers import AdamWConfig, Kept, OptimizerConfig
from distrain.errors import CheckpointError, RecipeError
from distrain.optim import build_optimizer
from distrain.optim.adamw import adamw_state
from distrain.optim.state import OptimizerState, ScalarState
from distrain.parallel.apply import build_engine
from distrain.parallel.engine import Engine
from distrain.parallel.global_tensor import gather_full
from tests.distrain.checkpoint.states import manager
from tests.distrain.optim.counted import CountedConfig
from tests.distrain.optim.factored import FactoredConfig
from tests.distrain.optim.toys import register, registered
from tests.distrain.parallel.probe import same_bits
from tests.distrain.parallel.tiny_model import (
    Case,
    largest_difference,
    ranks_of,
    spec_of,
    train,
)
from tests.ranks import run_ranks

ELEMENTWISE = CountedConfig(learning_rate=1e-2)
OF_ANOTHER_SHAPE = FactoredConfig(learning_rate=1e-2)
WHOLE = [Case("ddp"), Case("fsdp")]
ZERO = [Case("deepspeed", stage=stage) for stage in (1, 2, 3)]


def engine_of(case: Case, config: OptimizerConfig, seed: int = 0) -> Engine:
    spec = replace(
        spec_of(replace(case, seed=seed)),
        build_optimizer=lambda named: build_optimizer(named, config),
    )
    return build_engine(ranks_of(case), spec)


def forget_scalars(engine: Engine, saved: ScalarState) -> ScalarState:
    del engine
    return replace(
        saved,
        scalars={entry: dict.fromkeys(values, 1) for entry, values in saved.scalars.items()},
    )


def forget(entry: str) -> Callable[[Engine, ScalarState], ScalarState]:
    def forgetting(engine: Engine, saved: ScalarState) -> ScalarState:
        for name, tensor in engine.state().items():
            for box in tensor.boxes if name.startswith(f"{entry}/") else ():
                box.tensor.fill_(1e-3)
        return saved

    return forgetting


@lru_cache
def alone(config: OptimizerConfig) -> list[tuple[float, float]]:
    """Losses and norms of one process."""
    with registered():
        return train(engine_of(Case(), config), range(6), 4)


def whole_and_cut(
    folder: Path, case: Case, config: OptimizerConfig, expected: list[tuple[float, float]]
) -> None:
    """Train six steps; again from the checkpoint of the third; and with a part of it forgotten."""
    checkpoints = manager(folder / f"{case}-{config.name}")
    engine = engine_of(case, config)
    first = train(engine, range(3), case.microbatch)
    extra = {"optimizer": engine.optimizer_scalars().to_json()}
    checkpoints.save_and_wait(3, engine.state(), extra)
    losses = train(engine, range(3, 6), case.microbatch)
    final, scalars = gather_full(engine.state()), engine.optimizer_scalars()
    engine.close()
    assert len(scalars.scalars) == len(config.kept.scalars)
    held = {name.split("/")[0] for name in final}
    assert held == {"model", "buffer"} | set(config.kept.entries) - set(config.kept.scalars)
    assert largest_difference([*first, *losses], expected) < 1e-4, case
    for name, tensor in final.items():
        declared = config.kept.like_parameter.get(name.split("/")[0])
        assert not declared or declared == tensor.element_size(), name

    again = gone_on(checkpoints, case, config, lambda _, saved: saved)
    assert again[0] == losses, case
    assert same_bits(again[1], final), case
    assert again[2] == scalars, case
    for control in (forget_scalars, *(forget(entry) for entry in sorted(held - {"buffer"}))):
        losses_of_control, *_ = gone_on(checkpoints, case, config, control)
        assert losses_of_control != losses, (case, control)


def gone_on(
    checkpoints: CheckpointManager,
    case: Case,
    config: OptimizerConfig,
    change: Callable[[Engine, ScalarState], ScalarState],
) -> tuple[list[tuple[float, float]], dict[str, Tensor], ScalarState]:
    engine = engine_of(case, config, seed=1)
    restored = checkpoints.restore(engine.state())
    assert restored is not None
    saved = ScalarState.from_extra(restored[1])
    engine.loaded(change(engine, saved))
    losses = train(engine, range(3, 6), case.microbatch)
    result = losses, gather_full(engine.state()), engine.optimizer_scalars()
    engine.close()
    return result


Cases = list[tuple[Case, OptimizerConfig, list[tuple[float, float]]]]


def examine(folder: Path, cases: Cases) -> None:
    register()
    import distrain.parallel.engines.deepspeed as zero

    zero.PERSISTENT_NUMEL = 10  # the tiny model's parameters are all too small to be cut
    for case, config, expected in cases:
        whole_and_cut(folder, case, config, expected)
        if case.strategy == "deepspeed":
            with pytest.raises(RecipeError, match="factored with parallelism"):
                engine_of(case, OF_ANOTHER_SHAPE)


@pytest.mark.parametrize("config", [ELEMENTWISE, OF_ANOTHER_SHAPE], ids=lambda c: str(c.name))
def test_one_process_goes_on_bit_by_bit(config, tmp_path):
    expected = alone(config)
    with registered():
        whole_and_cut(tmp_path, Case(), config, expected)


def test_shards_of_any_shape_go_on_bit_by_bit(tmp_path):
    cases: Cases = [
        (Case("fsdp"), OF_ANOTHER_SHAPE, alone(OF_ANOTHER_SHAPE)),
        (Case("deepspeed", stage=1), ELEMENTWISE, alone(ELEMENTWISE)),
    ]
    run_ranks(tmp_path / "ranks", 2, examine, tmp_path, cases)


@pytest.mark.seams
@pytest.mark.parametrize(
    ("case", "config"),
    [
        *((case, ELEMENTWISE) for case in (*WHOLE, *ZERO)),
        *((case, OF_ANOTHER_SHAPE) for case in WHOLE),
        *((case, AdamWConfig(learning_rate=1e-2)) for case in (*WHOLE, *ZERO)),
    ],
    ids=lambda value: str(getattr(value, "name", value)),
)
def test_every_engine_goes_on_bit_by_bit(case, config, tmp_path):
    run_ranks(tmp_path / "ranks", 2, examine, tmp_path, [(case, config, alone(config))])


@pytest.mark.seams
def test_replicated_shards_go_on_bit_by_bit(tmp_path):
    case = Case("fsdp", microbatch=2, replicate=2)
    cases = [(case, config, alone(config)) for config in (ELEMENTWISE, OF_ANOTHER_SHAPE)]
    run_ranks(tmp_path / "ranks", 4, examine, tmp_path, cases)


def test_a_group_moves_by_its_share_of_the_learning_rate():
    with registered():
        optimizer = build_optimizer(spec_of(Case()).build_model().named_parameters(), ELEMENTWISE)
    optimizer.set_learning_rate(0.3)
    rates = {bool(g["weight_decay"]): g["lr"] for g in optimizer.torch.param_groups}
    assert rates == {True: 0.3, False: 0.15}


def test_what_is_kept_but_not_declared_is_found_before_it_is_lost():
    parameter = torch.nn.Parameter(torch.ones(3))
    forgetful = OptimizerState(
        "forgetful",
        torch.optim.AdamW([parameter], amsgrad=True),
        AdamWConfig.kept,
        adamw_state,
    )
    assert forgetful.of(parameter).keys() == AdamWConfig.kept.entries
    forgetful.torch.state.clear()
    parameter.grad = torch.ones(3)
    forgetful.torch.step()
    with pytest.raises(ValueError, match=r"keeps \['max_exp_avg_sq'\] without declaring it"):
        forgetful.of(parameter)


def test_a_scalar_is_read_and_written_in_the_form_that_it_is_kept_in():
    parameters = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    kept = Kept({}, scalars=("count", "scale"))
    optimizer = OptimizerState(
        "plain",
        torch.optim.SGD(parameters),
        kept,
        lambda *_: {"count": 0, "scale": torch.tensor(0.1)},
    )
    names = ("a", "b")
    saved = {"count": dict(zip(names, (7, 8), strict=True)), "scale": dict.fromkeys(names, 0.3)}
    named = dict(zip(names, parameters, strict=True))
    # Through JSON, and twice: what was read is what is read again.
    optimizer.write_scalars(named, ScalarState("plain", json.loads(json.dumps(saved))))
    read = optimizer.scalars(parameters)
    assert read == {"count": [7, 8], "scale": [torch.tensor(0.3).item()] * 2}
    assert type(optimizer.of(parameters[0])["count"]) is int
    again = {entry: dict(zip(names, values, strict=True)) for entry, values in read.items()}
    optimizer.write_scalars(named, ScalarState("plain", json.loads(json.dumps(again))))
    assert optimizer.scalars(parameters) == read


@pytest.mark.parametrize("value", [float("inf"), torch.tensor(float("nan"))])
def test_a_scalar_that_json_cannot_hold_is_found_before_a_save_without_it(value):
    parameter = torch.nn.Parameter(torch.ones(1))
    torch_optimizer = torch.optim.SGD([parameter])
    kept = Kept({}, scalars=("best",))
    optimizer = OptimizerState("endless", torch_optimizer, kept, lambda *_: {"best": value})
    with pytest.raises(ValueError, match=r"optimizer endless keeps best (inf|nan)"):
        optimizer.scalars([parameter])


def test_a_checkpoint_without_a_scalar_is_refused():
    engine = engine_of(Case(), AdamWConfig())
    saved = engine.optimizer_scalars()
    steps = {name: step for name, step in saved.scalars["step"].items() if name != "odd"}
    with pytest.raises(CheckpointError, match="none for odd"):
        engine.loaded(replace(saved, scalars={"step": steps}))


def test_steps_of_older_versions_are_those_of_adamw():
    older = ScalarState.from_extra({"optimizer_steps": {"odd": 4}})
    assert older == ScalarState("adamw", {"step": {"odd": 4}})
    assert ScalarState.from_extra({"optimizer": older.to_json()}) == older
