"""Every optimizer under every engine: as one process, cut and resumed, or refused by name."""

import pytest

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
from tests.distrain.optim.proof import WHOLE, ZERO, Cases, alone, engine_of, examine, whole_and_cut
from tests.distrain.parallel.tiny_model import Case
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


def by_name(config):
    return config.name


def test_every_optimizer_is_among_them():
    assert {config.name for config in CONFIGS} | {"adamw"} == OPTIMIZER_SECTIONS.keys()


@pytest.mark.parametrize("config", CONFIGS, ids=by_name)
@pytest.mark.filterwarnings("ignore")
def test_one_process_goes_on_bit_by_bit(config, tmp_path):
    whole_and_cut(tmp_path, Case(), config, alone(config))


def test_shards_go_on_bit_by_bit(tmp_path):
    """The two whose exchanges are their own."""
    cases: Cases = [
        (Case("fsdp"), config, alone(config)) for config in OTHERS if config.name != "adamw_8bit"
    ]
    run_ranks(tmp_path / "ranks", 2, examine, tmp_path, cases)


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


def refuse(configs):
    for config in configs:
        for case in ZERO:
            with pytest.raises(RecipeError, match=f"{config.name} with parallelism.strategy"):
                engine_of(case, config)


@pytest.mark.models
def test_zero_refuses_the_others_by_name(tmp_path):
    run_ranks(tmp_path, 2, refuse, OTHERS)
