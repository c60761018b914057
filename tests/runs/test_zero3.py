"""The whole of a recipe under DeepSpeed ZeRO-3, fine-tuning included, killed and gone on."""

import os
import signal
import time

import pytest

from tests.runs.processes import assert_no_orphans, family, start, wait_for_stage
from tests.tiny import distrain, exact_records, tensor_digests, write_recipe

ZERO3 = ("parallelism.strategy=deepspeed", "parallelism.zero_stage=3")


@pytest.mark.chaos  # a minute; a resume under ZeRO-3 is also in tests/distrain/train
def test_a_killed_run_under_zero3_equals_its_twin(tmp_path):
    recipe = write_recipe(tmp_path)
    twin = tmp_path / "twin" / "tiny"
    finished = distrain(twin.parent, "run", str(recipe), *ZERO3)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    run = tmp_path / "runs" / "tiny"
    for stage in ("pretrain", "sft"):
        launcher = start(run.parent, recipe, *ZERO3)
        assert wait_for_stage(run, stage, launcher), stage
        while not (run / stage / "checkpoints" / "step_000005").exists():
            time.sleep(0.02)
        processes = family(launcher)
        os.kill(launcher.pid, signal.SIGKILL)
        launcher.wait()
        assert_no_orphans(processes)
    finished = distrain(run.parent, "run", str(recipe), *ZERO3)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    for stage in ("pretrain", "sft"):
        assert exact_records(run, stage) == exact_records(twin, stage), stage
        assert tensor_digests(run, stage) == tensor_digests(twin, stage), stage
