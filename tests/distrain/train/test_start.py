"""What a process of one rank imports before its first step: nothing that only others need."""

import subprocess
import sys
from types import ModuleType

import torch

from distrain.dtensor import is_dtensor

CODE = """
import sys
from pathlib import Path
from distrain.models import model_on_meta
from distrain.monitor.monitor import Monitor
from tests.distrain.train.synthetic import VOCAB_SIZE, finish, make_run, make_stage

SLOW = {
    *("torch._dynamo", "torch._inductor", "sympy", "torch.distributed.tensor"),
    *("torch.distributed.fsdp", "torch.distributed.checkpoint"),
    *("transformers", "accelerate", "peft", "datasets", "deepspeed", "wandb"),
}
record_step = Monitor.record_step

def looking(*arguments, **fields):
    record_step(*arguments, **fields)
    print(*sorted(SLOW & sys.modules.keys()))

Monitor.record_step = looking
stage = make_stage("single", precision="fp32", max_steps=1, checkpoint={"save_steps": 1})
model_on_meta(stage.model, VOCAB_SIZE)  # as the stage does, for its counts
finish(make_run(Path(sys.argv[1]), stage))
print(*sorted(SLOW & sys.modules.keys()))
"""


def test_the_first_step_waits_for_no_compiler_no_shards_and_no_checkpoint(tmp_path):
    command = [sys.executable, "-c", CODE, str(tmp_path)]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    at_the_first_step, at_the_end = child.stdout.splitlines()
    assert at_the_first_step == ""
    assert {"torch.distributed.checkpoint", "torch.distributed.tensor"} <= set(at_the_end.split())
    assert len(list((tmp_path / "pretrain/checkpoints").glob("step_*/commit.json"))) == 1


def test_a_tensor_is_none_while_the_class_is_imported(monkeypatch):
    name = "torch.distributed.tensor"
    monkeypatch.setitem(sys.modules, name, ModuleType(name))  # as another thread has it by then
    assert not is_dtensor(torch.zeros(1))
