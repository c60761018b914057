"""``max_grad_norm: null``: no engine clips, and each still says what the norm was."""

import math

import pytest

from distrain.parallel.global_tensor import gather_full
from tests.distrain.parallel.probe import same_bits
from tests.distrain.parallel.tiny_model import Case, engine_of, train_step
from tests.ranks import run_ranks

ENGINES = [Case("fsdp"), Case("deepspeed", stage=2), Case("deepspeed", stage=3)]


def trained(case, max_grad_norm):
    engine = engine_of(case)
    norms = [
        train_step(engine, step, case.microbatch, max_grad_norm=max_grad_norm)[1]
        for step in range(3)
    ]
    state = gather_full(engine.state())
    engine.close()
    return norms, state


def compare(cases):
    for case in cases:
        norms, state = trained(case, None)
        assert all(1 < norm < math.inf for norm in norms), case
        huge_norms, huge_state = trained(case, 1e30)
        assert huge_norms == norms, case
        assert same_bits(huge_state, state), case
        assert not same_bits(trained(case, 1.0)[1], state), case


def test_one_process_does_not_clip():
    compare([Case()])


def test_ranks_do_not_clip(tmp_path):
    run_ranks(tmp_path, 2, compare, ENGINES[:2])


@pytest.mark.models
def test_no_engine_clips(tmp_path):
    run_ranks(tmp_path, 2, compare, [Case("ddp"), *ENGINES, Case("deepspeed", stage=1)])
