"""That an optimizer's declared state is all there is: runs that are cut, and go on bit by bit."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
from torch import Tensor

from distrain.checkpoint.manager import CheckpointManager
from distrain.config.optimizers import OptimizerConfig
from distrain.errors import RecipeError
from distrain.optim import build_optimizer
from distrain.optim.state import ScalarState
from distrain.parallel.apply import build_engine
from distrain.parallel.engine import Engine
from distrain.parallel.global_tensor import gather_full
from tests.distrain.checkpoint.states import manager
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

OF_ANOTHER_SHAPE = FactoredConfig(learning_rate=1e-2)
WHOLE = [Case("ddp"), Case("fsdp")]
TOLERANCES = {"adamw_8bit": 5e-2}  # blocks of a shard are other blocks
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
    assert len(scalars.scalars) == len(config.keeps.scalars)
    held = {name.split("/")[0] for name in final}
    assert held == {"model", "buffer"} | set(config.keeps.entries) - set(config.keeps.scalars)
    assert largest_difference([*first, *losses], expected) < TOLERANCES.get(config.name, 1e-4), case
    for name, tensor in final.items():
        declared = config.keeps.like_parameter.get(name.split("/")[0])
        assert not declared or declared == tensor.element_size(), name

    again = gone_on(checkpoints, case, config, lambda _, saved: saved)
    assert again[0] == losses, case
    assert same_bits(again[1], final), case
    assert again[2] == scalars, case
    controls = [forget(entry) for entry in sorted(held - {"buffer"})]
    for control in (*controls, *([forget_scalars] if config.keeps.scalars else [])):
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
