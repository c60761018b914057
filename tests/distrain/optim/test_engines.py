"""Every optimizer under every engine: as one process, cut and resumed, or refused by name."""

from dataclasses import replace

import pytest

from distrain.checkpoint.dcp import read_full
from distrain.config.optimizers import (
    OPTIMIZER_SECTIONS,
    AdafactorConfig,
    AdagradConfig,
    AdamConfig,
    AdamW8bitConfig,
    LionConfig,
    MuonConfig,
    RmspropConfig,
    SgdConfig,
)
from distrain.errors import RecipeError
from distrain.optim.state import ScalarState
from distrain.parallel.global_tensor import gather_full
from tests.distrain.checkpoint.states import manager
from tests.distrain.optim.proof import WHOLE, ZERO, alone, engine_of, examine, whole_and_cut
from tests.distrain.parallel.tiny_model import Case, largest_difference, train
from tests.ranks import run_ranks

CONFIGS = [
    AdamConfig(learning_rate=1e-2, weight_decay=0.1),
    SgdConfig(learning_rate=0.1, nesterov=True),
    SgdConfig(learning_rate=0.1, momentum=0.0, weight_decay=0.1),
    RmspropConfig(learning_rate=1e-2, momentum=0.5, centered=True),
    AdagradConfig(learning_rate=1e-2, initial_accumulator_value=0.1),
    LionConfig(learning_rate=1e-3),
    MuonConfig(learning_rate=1e-2),
    AdafactorConfig(learning_rate=1e-2, scale_parameter=True, weight_decay=0.1),
    AdamW8bitConfig(learning_rate=1e-2, min_8bit_size=15),
]
ELEMENTWISE = [config for config in CONFIGS if config.kept.elementwise]
OTHERS = [config for config in CONFIGS if not config.kept.elementwise]


ALWAYS = ("rmsprop", "muon", "adafactor")
IN_ONE_PROCESS = [
    pytest.param(config, id=config.name, marks=() if config.name in ALWAYS else pytest.mark.models)
    for config in CONFIGS
]


def by_name(config):
    return config.name


def test_every_optimizer_is_among_them():
    assert {config.name for config in CONFIGS} | {"adamw"} == OPTIMIZER_SECTIONS.keys()


@pytest.mark.parametrize("config", IN_ONE_PROCESS)
@pytest.mark.filterwarnings("ignore")
def test_one_process_goes_on_bit_by_bit(config, tmp_path):
    whole_and_cut(tmp_path, Case(), config, alone(config))


@pytest.mark.models
@pytest.mark.parametrize("config", CONFIGS, ids=by_name)
def test_every_engine_goes_on_bit_by_bit(config, tmp_path):
    cases = [*WHOLE, *(ZERO if config.kept.elementwise else [])]
    run_ranks(
        tmp_path / "ranks", 2, examine, tmp_path, [(case, config, alone(config)) for case in cases]
    )


@pytest.mark.models
@pytest.mark.parametrize("config", CONFIGS, ids=by_name)
def test_replicated_shards_go_on_bit_by_bit(config, tmp_path):
    cases = [(Case("fsdp", microbatch=2, replicate=2), config, alone(config))]
    run_ranks(tmp_path / "ranks", 4, examine, tmp_path, cases)


def save_under_fsdp(folder, config):
    engine = engine_of(Case("fsdp"), config)
    train(engine, range(3), 2)
    extra = {"optimizer": engine.optimizer_scalars().to_json()}
    manager(folder).save_and_wait(3, engine.state(), extra)


def go_on(folder, cases, config, expected):
    """Restore under other engines: what they hold is what is on disk, and the losses follow."""
    examine(folder, [])  # zero 3 cuts the tiny model too
    saved = read_full(next(folder.rglob("step_000003")), prefix="")
    for case in cases:
        engine = engine_of(replace(case, seed=1), config)
        restored = manager(folder).restore(engine.state())
        assert restored is not None
        engine.loaded(ScalarState.from_extra(restored[1]))
        held = gather_full(engine.state())
        assert held.keys() == saved.keys()
        assert all(tensor.equal(held[name]) for name, tensor in saved.items()), case
        assert largest_difference(train(engine, range(3, 6), case.microbatch), expected) < 1e-4
        engine.close()


@pytest.mark.models
@pytest.mark.parametrize(
    "config", [config for config in CONFIGS if not config.kept.of_shards], ids=by_name
)
def test_a_checkpoint_of_four_shards_goes_on_under_every_engine(config, tmp_path):
    expected = alone(config)[3:]
    cases = [*WHOLE, *(ZERO if config.kept.elementwise else [])]
    run_ranks(tmp_path / "four", 4, save_under_fsdp, tmp_path / "saved", config)
    run_ranks(tmp_path / "two", 2, go_on, tmp_path / "saved", cases, config, expected)
    go_on(tmp_path / "saved", [Case()], config, expected)


def refuse(configs):
    for config in configs:
        for case in ZERO:
            with pytest.raises(RecipeError, match=f"{config.name} with parallelism.strategy"):
                engine_of(case, config)


@pytest.mark.models
def test_zero_refuses_the_others_by_name(tmp_path):
    run_ranks(tmp_path, 2, refuse, OTHERS)
