"""Any declared state is saved, cut and taken over bit by bit, and nothing less will do."""

import json
from dataclasses import replace

import pytest
import torch

from distrain.config.optimizers import AdafactorConfig, AdamWConfig, Kept, MuonConfig
from distrain.errors import CheckpointError
from distrain.optim import build_optimizer
from distrain.optim.adam import adam_state
from distrain.optim.state import OptimizerState, ScalarState
from tests.distrain.optim.counted import CountedConfig
from tests.distrain.optim.proof import (
    OF_ANOTHER_SHAPE,
    WHOLE,
    ZERO,
    Cases,
    alone,
    engine_of,
    examine,
    whole_and_cut,
)
from tests.distrain.optim.toys import registered
from tests.distrain.parallel.clipping import clip_nothing
from tests.distrain.parallel.tiny_model import Case, spec_of
from tests.ranks import run_ranks

OWN_EXCHANGES = (
    MuonConfig(learning_rate=1e-2),
    AdafactorConfig(learning_rate=1e-2, scale_parameter=True),
)
ELEMENTWISE = CountedConfig(learning_rate=1e-2)


@pytest.mark.parametrize("config", [ELEMENTWISE, OF_ANOTHER_SHAPE], ids=lambda c: str(c.name))
def test_one_process_goes_on_bit_by_bit(config, tmp_path):
    expected = alone(config)
    with registered():
        whole_and_cut(tmp_path, Case(), config, expected)


def examine_both(folder, cases):
    examine(folder, cases)
    clip_nothing([Case("fsdp"), Case("deepspeed", stage=2)])


def test_shards_of_any_shape_go_on_bit_by_bit_and_are_not_clipped_unless_told(tmp_path):
    """One start of ranks and of DeepSpeed for all that needs them."""
    cases: Cases = [
        *((Case("fsdp"), config, alone(config)) for config in (OF_ANOTHER_SHAPE, *OWN_EXCHANGES)),
        (Case("deepspeed", stage=1), ELEMENTWISE, alone(ELEMENTWISE)),
    ]
    run_ranks(tmp_path / "ranks", 2, examine_both, tmp_path, cases)


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
        adam_state,
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
