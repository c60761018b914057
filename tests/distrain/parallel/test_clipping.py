"""``max_grad_norm: null``; on ranks also in ``tests/distrain/optim/test_state.py``."""

import pytest

from tests.distrain.parallel.clipping import clip_nothing
from tests.distrain.parallel.tiny_model import Case
from tests.ranks import run_ranks

ENGINES = [Case("ddp"), Case("fsdp"), *(Case("deepspeed", stage=stage) for stage in (1, 2, 3))]


def test_one_process_does_not_clip():
    clip_nothing([Case()])


@pytest.mark.models
def test_no_engine_clips(tmp_path):
    run_ranks(tmp_path, 2, clip_nothing, ENGINES)
