"""A model for ZeRO-3 is made and cut without being whole on a rank."""

from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from distrain.parallel.engines import deepspeed
from distrain.parallel.engines.zero_construction import build_sharded
from distrain.parallel.engines.zero_memory import without_copies
from distrain.parallel.model_spec import build_whole
from tests.distrain.parallel.tiny_model import Case, ranks_of, spec_of
from tests.ranks import run_ranks


def check(case):
    spec = spec_of(case)
    expected = dict(build_whole(spec).named_parameters())
    module, values = build_sharded(spec, init_device_mesh("cpu", (dist.get_world_size(),)))
    parameters = dict(module.named_parameters())
    assert list(parameters) == list(values) == list(expected)
    for name, parameter in parameters.items():
        whole = expected[name]
        assert values[name].full_tensor().equal(whole)
        # Its shape and dtype are there for the optimizer, its memory is not.
        assert (parameter.shape, parameter.dtype) == (whole.shape, whole.dtype)
        assert parameter.requires_grad == whole.requires_grad
        assert parameter.untyped_storage().nbytes() == parameter.element_size()
    if case.tied:
        assert module.get_parameter("head.weight") is module.get_parameter("embedding.weight")
    shift = module.get_buffer("shift")
    assert shift.equal(torch.full_like(shift, 0.25))  # buffers are real


@pytest.mark.parametrize("case", [Case("deepspeed", tied=True), Case("deepspeed", frozen=True)])
def test_values_are_those_of_one_process_and_parameters_have_no_memory(tmp_path, case):
    run_ranks(tmp_path, 2, check, case)


def share_masters(case):
    spec, ranks = spec_of(case), ranks_of(case)
    is_shared = []
    # The control: left to itself, DeepSpeed copies.
    for context in (without_copies, nullcontext):
        with patch.object(deepspeed, "without_copies", context):
            engine = deepspeed.build_deepspeed(ranks, spec)
        zero: Any = engine._engine.optimizer
        pairs = zip(engine._partition.masters, zero.fp16_partitioned_groups_flat, strict=True)
        is_shared.append([master.data_ptr() == weights.data_ptr() for master, weights in pairs])
        engine.close()
    assert all(is_shared[0])
    assert not any(is_shared[1])


def test_masters_are_the_weights_themselves(tmp_path):
    run_ranks(tmp_path, 2, share_masters, Case("deepspeed", precision="bf16"))
